//! A killed process loses nothing that it acknowledged, its catalogue is sound, and a rerun completes its work.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use common::verbs::{Contents, Small, Verb, acknowledged, copy_folder, number_from_environment, verbs};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One verb: its catalogues before and after, and how long it takes.
struct Case {
    verb: &'static Verb,
    before: Contents,
    after: Contents,
    takes: Duration,
}

#[derive(Debug, Default)]
struct Count {
    kills: usize,
    /// Kills that found some of the work done, and some not.
    midway: usize,
    acknowledged: usize,
}

/// The catalogue as it is before the verb.
fn prepared(verb: &Verb) -> String {
    format!("prepared {}", verb.name)
}

/// Runs the verb, kills it at a random moment of the time that it takes, and looks at what is left. Whether it was killed.
fn kill_once(small: &Small, case: &Case, catalogue: &str, rng: &mut ChaCha8Rng, count: &mut Count) -> bool {
    let mut command = small.command(catalogue, case.verb.arguments);
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let out = BufReader::new(run.stdout.take().unwrap());
    let listen = std::thread::spawn(move || out.lines().map_while(Result::ok).collect::<Vec<_>>());
    std::thread::sleep(case.takes.mul_f64(rng.random_range(0.0..1.0)));
    run.kill().unwrap();
    let was_killed = run.wait().unwrap().code().is_none();
    let acknowledged = acknowledged(case.verb, listen.join().unwrap().iter().map(String::as_str));
    let found = small.interrupted(case.verb, catalogue, (&case.before, &case.after), &acknowledged);
    let found = found.unwrap_or_else(|e| panic!("{}: {e}", case.verb.name));
    if was_killed {
        count.kills += 1;
        count.midway += usize::from(found != case.before && found != case.after);
        count.acknowledged += acknowledged.len();
    }
    if found != Contents::default() {
        small.check_by_program(catalogue);
    }
    was_killed
}

/// `DEBUT_TEST_KILLS` says how many, 20 otherwise.
#[test]
fn kills_at_random_moments_lose_nothing_and_a_rerun_completes_the_work() {
    let wanted = number_from_environment("DEBUT_TEST_KILLS", 20);
    let small = Small::new();
    let cases: Vec<Case> = verbs()
        .map(|verb| {
            let (before, after, takes) = small.undisturbed(verb);
            small.prepare(verb, &prepared(verb));
            Case { verb, before, after, takes }
        })
        .collect();

    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut counts: Vec<Count> = cases.iter().map(|_| Count::default()).collect();
    for round in 0.. {
        let kills: usize = counts.iter().map(|count| count.kills).sum();
        if kills >= wanted {
            break;
        }
        let which = round % cases.len();
        let (case, catalogue) = (&cases[which], format!("killed-{round}"));
        let prepared = small.catalogue(&prepared(case.verb));
        if prepared.exists() {
            copy_folder(&prepared, &small.catalogue(&catalogue));
        }
        // One catalogue is killed again and again until a run of it gets through; not so often that no verb is left over.
        for _ in 0..wanted.div_ceil(cases.len()).min(5) {
            if !kill_once(&small, case, &catalogue, &mut rng, &mut counts[which]) {
                break;
            }
        }
        small.complete(case.verb, &catalogue, &case.after);
        std::fs::remove_dir_all(small.catalogue(&catalogue)).unwrap();
    }
    for (case, count) in cases.iter().zip(&counts) {
        println!("{}: {} ms undisturbed, {count:?}", case.verb.name, case.takes.as_millis());
    }
    let midway: usize = counts.iter().map(|count| count.midway).sum();
    let can_be_midway = cases.iter().any(|case| !case.verb.at_once);
    assert!(midway > 0 || !can_be_midway, "at least one kill must hit the middle of the work: {counts:?}");
}
