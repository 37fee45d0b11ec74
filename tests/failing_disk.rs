//! A disk that fails at any step (EIO, ENOSPC, a short write, the end of the process or of the power) takes nothing away
//! that was acknowledged, leaves a sound catalogue, and a rerun completes the work. One that cannot be read gives errors,
//! and no other answers.
//!
//! `failing_disk.c` stands between the program and the C library. The steps are counted in an undisturbed run, and a sample
//! of them is visited: `DEBUT_TEST_STEPS` of each verb, 10 otherwise; a million is all of them
//! (`DEBUT_TEST_VERB=import`: of one verb alone).
#![cfg(all(target_os = "linux", target_env = "gnu"))]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::verbs::{
    Contents, Small, VERBS, Verb, acknowledged, copy_folder, number_from_environment, problems, verbs,
};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Compiles the layer. A compiler is there wherever debut was built; a C++ compiler compiles C, too.
fn layer(folder: &Path) -> PathBuf {
    let library = folder.join("failing_disk.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/failing_disk.c");
    let compile = |compiler: &str| {
        let flags = ["-x", "c", "-O1", "-shared", "-fPIC"];
        Command::new(compiler).args(flags).arg(&source).arg("-o").arg(&library).args(["-ldl", "-lpthread"]).output()
    };
    let named = std::env::var("CC").ok();
    let compilers = named.as_deref().into_iter().chain(["cc", "c++"]);
    let done = compilers.map(compile).find(Result::is_ok).expect("a C or C++ compiler").unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    library
}

/// How a call fails.
#[derive(Clone, Copy, Debug)]
struct Fault {
    how: &'static str,
    /// All later ones, too.
    lasts: bool,
}

const FAULTS: [Fault; 6] = [
    Fault { how: "eio", lasts: false },
    Fault { how: "eio", lasts: true },
    Fault { how: "enospc", lasts: true },
    Fault { how: "short", lasts: false },
    Fault { how: "kill", lasts: false },
    Fault { how: "tear", lasts: false },
];

/// The verb, on a disk below which the layer lies.
fn command(small: &Small, layer: &Path, catalogue: &str, arguments: &[&str]) -> Command {
    let mut command = small.command(catalogue, arguments);
    command.env("LD_PRELOAD", layer).env("FAILING_DISK_BELOW", small.path().join("disk"));
    command
}

/// The changing calls of an undisturbed run.
fn count_calls(small: &Small, layer: &Path, catalogue: &str, verb: &Verb) -> usize {
    let count = small.path().join("count");
    let done = command(small, layer, catalogue, verb.arguments).env("FAILING_DISK_COUNT", &count).output().unwrap();
    assert_eq!(done.status.code(), Some(verb.code), "{done:?}");
    fs::read_to_string(count).unwrap().parse().unwrap()
}

fn lines(output: &Output) -> impl Iterator<Item = &str> {
    std::str::from_utf8(&output.stdout).unwrap().lines()
}

/// Files that were being written aside.
fn left_aside(folder: &Path) -> Vec<PathBuf> {
    // The folder may be what could not be made.
    let files = walkdir::WalkDir::new(folder).into_iter().filter_map(|entry| Some(entry.ok()?.into_path()));
    files.filter(|path| path.extension().is_some_and(|e| e == "partial")).collect()
}

/// What only reads; and an ingestion of nothing new.
const READERS: &[&[&str]] = &[
    &["status", "--json"],
    &["failures", "--json"],
    &["check", "--json"],
    &["recommend", "--track", "song-3", "--listeners", "3", "--json"],
    &["recommend", "--user", "listener-4", "--json"],
    &["ingest", "--manifest", "other.csv"],
];

#[test]
fn what_a_disk_cannot_read_is_an_error_and_no_other_answer() {
    let wanted = number_from_environment("DEBUT_TEST_STEPS", 10);
    let small = Small::in_memory();
    let layer = layer(small.path());
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for arguments in [VERBS[1].before[0], VERBS[1].arguments, VERBS[3].arguments] {
        let done = small.command("prepared", arguments).output().unwrap();
        assert!(done.status.code().is_some_and(|code| code < 2), "{arguments:?}: {done:?}");
    }
    let contents = Contents::of(&small.catalogue("prepared"));
    for arguments in READERS {
        let reader = || {
            let mut reader = command(&small, &layer, "prepared", arguments);
            reader.env("FAILING_DISK_READS", "1");
            reader
        };
        let count = small.path().join("count");
        let undisturbed = reader().env("FAILING_DISK_COUNT", &count).output().unwrap();
        assert_eq!(undisturbed.status.code(), Some(0), "{undisturbed:?}");
        let calls: usize = fs::read_to_string(count).unwrap().parse().unwrap();
        assert!(calls > 5, "{arguments:?}: {calls} calls: the layer sees nothing");
        let faults = FAULTS.iter().filter(|fault| matches!(fault.how, "eio" | "short"));
        let mut steps: Vec<(usize, &Fault)> =
            faults.flat_map(|fault| (1..=calls).map(move |call| (call, fault))).collect();
        steps.shuffle(&mut rng);
        steps.truncate(wanted);
        let (mut same, mut errors) = (0, 0);
        for (call, fault) in steps {
            let what = format!("{arguments:?}, read {call} of {calls}, {fault:?}");
            let mut run = reader();
            run.env("FAILING_DISK_CALL", call.to_string()).env("FAILING_DISK_HOW", fault.how);
            if fault.lasts {
                run.env("FAILING_DISK_LASTS", "1");
            }
            let done = run.output().unwrap();
            let says = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
            assert!(!says.contains("panicked"), "{what}: {says}");
            if done.status.code() == Some(0) && done.stdout == undisturbed.stdout {
                same += 1;
            } else {
                assert!(fault.how == "eio", "{what}: {says}");
                // `check` tells of what it cannot read among the problems; an index that cannot be read is left unused with
                // a warning, and the scan of all songs differs from the graph in the last digit of a score.
                let path = small.path().to_str().unwrap();
                let is_told = match done.status.code() {
                    Some(0) => says.contains("left unused"),
                    Some(1) => says.contains("\"ok\":false"),
                    code => code == Some(2) && says.contains(path),
                };
                assert!(is_told, "{what}: {done:?}");
                errors += 1;
            }
        }
        println!(
            "{}: {calls} reads; {errors} errors and warnings, {same} times the same answer",
            arguments[..2].join(" ")
        );
        assert_eq!(Contents::of(&small.catalogue("prepared")), contents);
    }
}

/// One call of the log that `failing_disk.c` writes.
#[derive(Debug)]
enum Op {
    Write {
        inode: u64,
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        inode: u64,
        length: usize,
    },
    /// Of a file or folder.
    Sync {
        inode: u64,
    },
    Create {
        inode: u64,
        path: PathBuf,
        is_folder: bool,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    /// On standard output.
    Said {
        bytes: Vec<u8>,
    },
}

fn read_log(path: &Path) -> Vec<Op> {
    let bytes = fs::read(path).unwrap();
    let (mut ops, mut rest) = (Vec::new(), &bytes[..]);
    while !rest.is_empty() {
        let end = rest.iter().position(|&b| b == b'\n').unwrap();
        let head = std::str::from_utf8(&rest[..end]).unwrap();
        rest = &rest[end + 1..];
        let (kind, words) = head.split_once(' ').unwrap();
        let number = |i: usize| words.split(' ').nth(i).unwrap().parse::<u64>().unwrap();
        let mut take = |n: u64| {
            let (taken, behind) = rest.split_at(n as usize);
            rest = behind;
            taken.to_vec()
        };
        ops.push(match kind {
            "w" => Op::Write { inode: number(0), offset: number(1) as usize, bytes: take(number(2)) },
            "a" => Op::Said { bytes: take(number(0)) },
            "t" => Op::Truncate { inode: number(0), length: number(1) as usize },
            "s" => Op::Sync { inode: number(0) },
            "c" | "m" => {
                let path = words.split_once(' ').unwrap().1.into();
                Op::Create { inode: number(0), path, is_folder: kind == "m" }
            }
            "r" => {
                let (from, to) = words.split_once('\t').unwrap();
                Op::Rename { from: from.into(), to: to.into() }
            }
            "u" => Op::Remove { path: words.into() },
            _ => panic!("{head}"),
        });
    }
    ops
}

/// What a name stands for: a folder, or one of the files that there ever were.
#[derive(Clone, Copy, Debug)]
enum Node {
    Folder,
    File(usize),
}

type Names = BTreeMap<PathBuf, Node>;

#[derive(Clone)]
enum NameOp {
    Add(PathBuf, Node),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameOp {
    /// The folder whose sync makes it last. A file is renamed within one.
    fn folder(&self) -> &Path {
        let (NameOp::Add(path, _) | NameOp::Rename(_, path) | NameOp::Remove(path)) = self;
        path.parent().unwrap()
    }

    fn apply(&self, names: &mut Names) {
        match self {
            NameOp::Add(path, node) => drop(names.insert(path.clone(), *node)),
            NameOp::Rename(from, to) => {
                let below: Vec<PathBuf> = names.keys().filter(|path| path.starts_with(from)).cloned().collect();
                for path in below {
                    let node = names.remove(&path).unwrap();
                    names.insert(moved(&path, from, to), node);
                }
            }
            NameOp::Remove(path) => drop(names.remove(path)),
        }
    }
}

/// What was below `from` is now below `to`.
fn moved(path: &Path, from: &Path, to: &Path) -> PathBuf {
    let below = path.strip_prefix(from).unwrap();
    if below.as_os_str().is_empty() { to.to_path_buf() } else { to.join(below) }
}

enum Written {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

/// A file: what of it is synced, and what came since.
#[derive(Default)]
struct Bytes {
    synced: Vec<u8>,
    since: Vec<Written>,
}

/// A disk as far as `fsync` promises: what was synced stays; of the rest, any part.
struct Disk {
    files: Vec<Bytes>,
    inodes: BTreeMap<u64, Result<usize, PathBuf>>,
    names: Names,
    synced_names: Names,
    since: Vec<NameOp>,
    said: Vec<u8>,
}

impl Disk {
    /// What lies below `root`, all synced.
    fn of(root: &Path) -> Disk {
        let mut disk = Disk {
            files: Vec::new(),
            inodes: BTreeMap::new(),
            names: Names::new(),
            synced_names: Names::new(),
            since: Vec::new(),
            said: Vec::new(),
        };
        for entry in walkdir::WalkDir::new(root) {
            let entry = entry.unwrap();
            let (inode, path) = (entry.metadata().unwrap().ino(), entry.path().to_path_buf());
            if entry.file_type().is_dir() {
                disk.inodes.insert(inode, Err(path.clone()));
                disk.names.insert(path, Node::Folder);
            } else {
                disk.inodes.insert(inode, Ok(disk.files.len()));
                disk.names.insert(path.clone(), Node::File(disk.files.len()));
                disk.files.push(Bytes { synced: fs::read(path).unwrap(), since: Vec::new() });
            }
        }
        disk.synced_names = disk.names.clone();
        disk
    }

    fn name(&mut self, op: NameOp) {
        op.apply(&mut self.names);
        self.since.push(op);
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Said { bytes } => self.said.extend(bytes),
            Op::Write { inode, offset, bytes } => {
                let Ok(file) = self.inodes[inode] else { panic!("a folder is written to") };
                self.files[file].since.push(Written::Bytes(*offset, bytes.clone()));
            }
            Op::Truncate { inode, length } => {
                let Ok(file) = self.inodes[inode] else { panic!("a folder is cut") };
                self.files[file].since.push(Written::Length(*length));
            }
            Op::Sync { inode } => match &self.inodes[inode] {
                Ok(file) => {
                    let file = &mut self.files[*file];
                    for written in file.since.drain(..) {
                        put(&mut file.synced, &written, usize::MAX);
                    }
                }
                Err(folder) => {
                    let (done, left): (Vec<NameOp>, Vec<NameOp>) =
                        self.since.drain(..).partition(|op| op.folder() == folder);
                    self.since = left;
                    done.iter().for_each(|op| op.apply(&mut self.synced_names));
                }
            },
            Op::Create { inode, path, is_folder: true } => {
                self.inodes.insert(*inode, Err(path.clone()));
                self.name(NameOp::Add(path.clone(), Node::Folder));
            }
            Op::Create { inode, path, .. } => {
                // The number may be that of a file that was removed.
                self.inodes.insert(*inode, Ok(self.files.len()));
                self.name(NameOp::Add(path.clone(), Node::File(self.files.len())));
                self.files.push(Bytes::default());
            }
            Op::Rename { from, to } => {
                for folder in self.inodes.values_mut().filter_map(|node| node.as_mut().err()) {
                    if folder.starts_with(from) {
                        *folder = moved(folder, from, to);
                    }
                }
                self.name(NameOp::Rename(from.clone(), to.clone()));
            }
            Op::Remove { path } => self.name(NameOp::Remove(path.clone())),
        }
    }

    /// The disk as a power loss may leave it now, below `to` what was below `from`.
    fn lose_power(&self, rng: &mut ChaCha8Rng, from: &Path, to: &Path) {
        let mut names = self.synced_names.clone();
        // File systems keep the order of what happens to names.
        let kept = match rng.random_range(0..3) {
            0 => 0,
            1 => self.since.len(),
            _ => rng.random_range(0..=self.since.len()),
        };
        self.since[..kept].iter().for_each(|op| op.apply(&mut names));
        let luck = rng.random_range(0..4);
        let _ = fs::remove_dir_all(to);
        for (path, node) in names {
            if !path.starts_with(from) {
                continue;
            }
            let path = moved(&path, from, to);
            match node {
                Node::Folder => fs::create_dir_all(path).unwrap(),
                // Its folder is gone.
                Node::File(_) if !path.parent().unwrap().is_dir() => {}
                Node::File(file) => {
                    let file = &self.files[file];
                    let mut bytes = file.synced.clone();
                    for written in &file.since {
                        match (luck, rng.random_range(0..3)) {
                            (0, _) | (1.., 0) => {}
                            (1, _) | (2.., 1) => put(&mut bytes, written, usize::MAX),
                            _ => put(&mut bytes, written, rng.random_range(0..64)),
                        }
                    }
                    fs::write(path, bytes).unwrap();
                }
            }
        }
    }
}

/// Writes, but no further than to the end of so many of the sectors (512 bytes) that it touches.
fn put(to: &mut Vec<u8>, written: &Written, sectors: usize) {
    match written {
        Written::Length(length) => to.resize(*length, 0),
        Written::Bytes(offset, bytes) => {
            let end = (offset / 512).saturating_add(sectors).saturating_mul(512);
            let bytes = &bytes[..bytes.len().min(end.saturating_sub(*offset))];
            if !bytes.is_empty() {
                to.resize(to.len().max(offset + bytes.len()), 0);
                to[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

#[test]
fn a_power_loss_at_any_step_takes_nothing_that_was_acknowledged() {
    let wanted = number_from_environment("DEBUT_TEST_STEPS", 10);
    let small = Small::in_memory();
    let layer = layer(small.path());
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for verb in verbs() {
        let (before, after, _) = small.undisturbed(verb);
        small.prepare(verb, "logged");
        let catalogue = small.catalogue("logged");
        let mut disk = Disk::of(&small.path().join("disk"));
        let log = small.path().join("log");
        let done = command(&small, &layer, "logged", verb.arguments).env("FAILING_DISK_LOG", &log).output().unwrap();
        assert_eq!(done.status.code(), Some(verb.code), "{done:?}");
        let ops = read_log(&log);
        let (mut cuts, mut midway) = (0, 0);
        for (step, op) in ops.iter().enumerate() {
            disk.run(op);
            // Three times as many, for these take a third of the time.
            let tries = (0..8).filter(|_| rng.random_range(0..8 * ops.len()) < 3 * wanted).count();
            for _ in 0..tries {
                let what = format!("{}, power lost after step {step} of {}: {op:?}", verb.name, ops.len());
                disk.lose_power(&mut rng, &catalogue, &small.catalogue("cut"));
                let told = acknowledged(verb, std::str::from_utf8(&disk.said).unwrap().lines());
                let found = small.interrupted(verb, "cut", (&before, &after), &told);
                let found = found.unwrap_or_else(|e| panic!("{what}: {e}"));
                if found != Contents::default() {
                    let problems = problems(&small.catalogue("cut"));
                    assert!(problems.is_empty(), "{what}: {problems:?}");
                }
                cuts += 1;
                midway += usize::from(found != before && found != after);
                if cuts % 8 == 0 {
                    small.complete(verb, "cut", &after);
                }
            }
        }
        println!("{}: {} steps, power lost {cuts} times, {midway} of them midway", verb.name, ops.len());
        // What was said last was said after all was synced.
        disk.lose_power(&mut rng, &catalogue, &small.catalogue("cut"));
        assert_eq!(Contents::of(&small.catalogue("cut")), after, "{}: done, and lost", verb.name);
        fs::remove_dir_all(catalogue).unwrap();
        let _ = fs::remove_dir_all(small.catalogue("cut"));
    }
}

#[test]
fn at_every_step_a_failing_disk_takes_nothing_that_was_acknowledged() {
    let wanted = number_from_environment("DEBUT_TEST_STEPS", 10);
    let small = Small::in_memory();
    let layer = layer(small.path());
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for verb in verbs() {
        let (before, after, _) = small.undisturbed(verb);
        let prepared = small.catalogue("prepared");
        small.prepare(verb, "prepared");
        let copy = |name: &str| {
            if prepared.exists() {
                copy_folder(&prepared, &small.catalogue(name));
            }
        };
        copy("counted");
        let calls = count_calls(&small, &layer, "counted", verb);
        assert!(calls > 10, "{}: {calls} calls: the layer sees nothing", verb.name);
        let mut steps: Vec<(usize, Fault)> = (1..=calls).flat_map(|call| FAULTS.map(|fault| (call, fault))).collect();
        steps.shuffle(&mut rng);
        steps.truncate(wanted);
        let mut count = BTreeMap::<(String, &str), usize>::new();
        for (call, fault) in steps {
            let what = format!("{}, call {call} of {calls}, {fault:?}", verb.name);
            copy("failed");
            let mut run = command(&small, &layer, "failed", verb.arguments);
            run.env("FAILING_DISK_CALL", call.to_string()).env("FAILING_DISK_HOW", fault.how);
            if fault.lasts {
                run.env("FAILING_DISK_LASTS", "1");
            }
            let done = run.output().unwrap();
            let says = String::from_utf8_lossy(&done.stderr);
            let kills = matches!(fault.how, "kill" | "tear");
            let ended = match (done.status.code(), done.status.signal()) {
                // The call may not come where threads did things in another order.
                (Some(code), _) if code == verb.code => "done",
                (Some(2), _) if !kills && fault.how != "short" => {
                    assert!(says.contains(small.path().to_str().unwrap()), "{what}: which file? {says}");
                    if !fault.lasts {
                        let left = left_aside(&small.catalogue("failed"));
                        assert!(left.is_empty(), "{what}: {left:?}");
                    }
                    "error"
                }
                (None, Some(9)) if kills => "killed",
                _ => panic!("{what}: {done:?}"),
            };
            assert!(!says.contains("panicked"), "{what}: {says}");
            let told = acknowledged(verb, lines(&done));
            let found = small.interrupted(verb, "failed", (&before, &after), &told);
            let found = found.unwrap_or_else(|e| panic!("{what}: {e}"));
            if ended == "done" {
                assert_eq!(found, after, "{what}");
            }
            if found != Contents::default() {
                small.check("failed");
            }
            small.complete(verb, "failed", &after);
            fs::remove_dir_all(small.catalogue("failed")).unwrap();
            *count.entry((format!("{fault:?}"), ended)).or_default() += 1;
        }
        println!("{}: {calls} calls", verb.name);
        for ((fault, ended), n) in count {
            println!("    {fault:45} {ended:8} {n:5}");
        }
        for name in ["prepared", "counted"] {
            let _ = fs::remove_dir_all(small.catalogue(name));
        }
    }
}
