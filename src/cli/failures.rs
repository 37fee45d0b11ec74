use std::process::ExitCode;

use super::{Context, print_json, print_line};
use crate::error::Result;
use crate::store::Store;

/// Files that failed are tried again when they change, or when a new version of debut decodes differently.
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_: Args, context: Context) -> Result<ExitCode> {
    let failures = Store::read(&context.catalogue)?.failures()?;
    for failure in &failures {
        if context.json {
            print_json(failure)?;
        } else {
            print_line(&format!("{}: {}", failure.path.display(), failure.reason))?;
        }
    }
    if failures.is_empty() && !context.json {
        print_line("no failures")?;
    }
    Ok(ExitCode::SUCCESS)
}
