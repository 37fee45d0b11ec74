//! Whose panic it is.

use std::backtrace::Backtrace;
use std::panic;

/// libFuzzer's hook ends the run at any panic, before it is caught. A panic of a dependency is expected: it is made
/// an error of. One of our own is a finding even where it would be caught; and what is not caught ends the run as ever.
pub fn let_them_panic() {
    let end_the_run = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let of_a_dependency = |file: &str| file.contains("/registry/src/");
        // An overflow within a function of the standard library is that of who called it.
        let caller = || {
            let trace = Backtrace::force_capture().to_string();
            let files = trace.lines().filter_map(|line| line.trim_start().strip_prefix("at "));
            let mut files = files.filter(|file| !file.contains("/rustc/") && !file.contains("fuzz"));
            files.next().is_some_and(of_a_dependency)
        };
        if !info.location().is_some_and(|at| of_a_dependency(at.file())) && !caller() {
            end_the_run(info);
        }
    }));
}
