//! What the three Rust programs share: batches of paths in, CPU and wall time out, one JSON line per batch.
//!
//! ```text
//! PROGRAM [--threads T] [--repeat N] [--out DIR] [PATH...]
//! {"cpu_ms":[28.412,29.027],"wall_ms":57.6,"start":[101.5,88.2],"seconds":[231.0,204.2],"failed":[null,null]}
//! ```
//!
//! Paths given as arguments are one batch; without any, each line of standard input is one (paths parted by tabs), so
//! that whoever compares several programs can let them take turns. `cpu_ms` is the least of `N` repeats for each path,
//! `wall_ms` the least time for the whole batch, which `T` threads work through together; `start` and `seconds` say
//! what the program found: where the middle excerpt begins and how long the track is; `failed` has the reason of each path that did.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What a program made of a track.
#[derive(Default)]
pub struct Heard {
    /// `[frames, bands]` row by row, where it is a spectrogram; `--out DIR` writes it as 32-bit floats, little-endian.
    pub values: Vec<f32>,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub seconds: f64,
}

/// Which CPU time is a track's.
#[allow(dead_code, reason = "each program needs one of them")]
#[derive(Clone, Copy, PartialEq)]
pub enum Clock {
    /// The thread's own, to the nanosecond: for work that starts no threads.
    Thread,
    /// All threads', to 10 ms: for work that starts its own.
    Process,
}

impl Clock {
    /// CPU time so far, in milliseconds. Linux only.
    fn now(self) -> f64 {
        match self {
            Clock::Thread => {
                // The kernel brings the counter up to date at its tick (every 1 to 10 ms) and whenever the thread
                // stops running; so it is made to stop for a moment.
                std::thread::sleep(Duration::from_micros(1));
                let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux's schedstat");
                let nanoseconds = text.split(' ').next().and_then(|n| n.parse::<f64>().ok());
                nanoseconds.expect("nanoseconds on the CPU come first") * 1e-6
            }
            Clock::Process => {
                let text = std::fs::read_to_string("/proc/self/stat").expect("Linux's stat");
                // The program's name, in brackets, may hold spaces; utime and stime are fields 14 and 15 (proc(5)),
                // the 12th and 13th behind it, in ticks of 10 ms.
                let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
                10.0 * [11, 12].iter().filter_map(|&i| fields.get(i)?.parse::<f64>().ok()).sum::<f64>()
            }
        }
    }
}

/// Runs the program, of which `hear` is the work on one file.
pub fn run(clock: Clock, hear: impl Fn(&Path) -> Result<Heard, String> + Sync) {
    let (mut threads, mut repeat, mut out, mut paths) = (1, 1, None, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|n| n.parse::<usize>().ok()).filter(|&n| n > 0);
        match argument.as_str() {
            "--threads" => threads = number().expect("--threads takes a number"),
            "--repeat" => repeat = number().expect("--repeat takes a number"),
            "--out" => out = Some(PathBuf::from(arguments.next().expect("--out takes a folder"))),
            // `cargo bench` adds it.
            "--bench" => {}
            _ => paths.push(PathBuf::from(argument)),
        }
    }
    let batch = |paths: &[PathBuf]| println!("{}", measure(clock, threads, repeat, out.as_ref(), paths, &hear));
    if paths.is_empty() {
        for line in std::io::stdin().lock().lines() {
            let line = line.expect("readable standard input");
            batch(&line.split('\t').map(PathBuf::from).collect::<Vec<_>>());
        }
    } else {
        batch(&paths);
    }
}

fn measure(
    clock: Clock,
    threads: usize,
    repeat: usize,
    out: Option<&PathBuf>,
    paths: &[PathBuf],
    hear: &(impl Fn(&Path) -> Result<Heard, String> + Sync),
) -> String {
    let best = Mutex::new(vec![f64::INFINITY; paths.len()]);
    let last: Mutex<Vec<Result<Heard, String>>> = Mutex::new(paths.iter().map(|_| Ok(Heard::default())).collect());
    let mut wall = f64::INFINITY;
    for repeat_number in 0..repeat {
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(path) = paths.get(i) else { break };
                let before = clock.now();
                let heard = hear(path);
                let spent = clock.now() - before;
                let mut best = best.lock().expect("no thread panics while it holds this");
                best[i] = best[i].min(spent);
                last.lock().expect("no thread panics while it holds this")[i] = heard;
            }
        };
        let before = clock.now();
        let start = Instant::now();
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        wall = wall.min(start.elapsed().as_secs_f64() * 1e3);
        if clock == Clock::Process && threads > 1 {
            // Tracks that are heard at the same time cannot be told apart: each gets its share.
            let share = (clock.now() - before) / paths.len() as f64;
            let mut best = best.lock().expect("no thread panicked");
            best.iter_mut().for_each(|ms| *ms = if repeat_number == 0 { share } else { ms.min(share) });
        }
    }
    let best = best.into_inner().expect("no thread panicked");
    let last = last.into_inner().expect("no thread panicked");
    let (mut starts, mut seconds, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for (path, heard) in paths.iter().zip(last) {
        failed.push(heard.as_ref().err().map_or("null".into(), |reason| quoted(reason)));
        let heard = heard.unwrap_or_default();
        write(out, path, &heard.values);
        starts.push(heard.start);
        seconds.push(heard.seconds);
    }
    let list = |numbers: &[f64]| numbers.iter().map(|n| format!("{n:.9}")).collect::<Vec<_>>().join(",");
    format!(
        "{{\"cpu_ms\":[{}],\"wall_ms\":{wall:.3},\"start\":[{}],\"seconds\":[{}],\"failed\":[{}]}}",
        list(&best),
        list(&starts),
        list(&seconds),
        failed.join(",")
    )
}

fn write(out: Option<&PathBuf>, path: &Path, values: &[f32]) {
    let (Some(folder), Some(name)) = (out, path.file_name()) else { return };
    let mut name = name.to_os_string();
    name.push(".f32");
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(folder.join(name), bytes).expect("a writable --out folder");
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            c if c.is_control() => vec![' '],
            c => vec![c],
        })
        .collect();
    format!("\"{escaped}\"")
}
