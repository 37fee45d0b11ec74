use std::process::ExitCode;

use serde_json::json;

use super::{Context, exit_code, print_json, print_line};
use crate::error::Result;
use crate::index;
use crate::store::{Problem, Store};

/// Looks at the database's pages, every row's checksum, every vector and reference, and the checksums of the index; says
/// what to do about what is wrong.
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_: Args, context: Context) -> Result<ExitCode> {
    let store = Store::read(&context.catalogue)?;
    let mut wrong = store.check()?;
    if let Err(e) = index::check(store.folder()) {
        let remedy = format!("delete {}; the next ingest builds it again", store.folder().join("index").display());
        wrong.push(Problem { problem: e.to_string(), remedy });
    }
    if context.json {
        print_json(&json!({ "ok": wrong.is_empty(), "problems": wrong }))?;
    } else if wrong.is_empty() {
        print_line(&format!("{}: all is well", context.catalogue.display()))?;
    } else {
        for problem in &wrong {
            print_line(&problem.to_string())?;
        }
    }
    Ok(exit_code(wrong.len() as u64))
}
