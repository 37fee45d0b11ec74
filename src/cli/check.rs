use std::process::ExitCode;

use serde_json::json;

use super::{Context, exit_code, print_json, print_line};
use crate::error::Result;
use crate::index;
use crate::store::Store;

/// Looks at the database's pages, every vector, every reference, and the checksums of the index.
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_: Args, context: Context) -> Result<ExitCode> {
    let store = Store::read(&context.catalogue)?;
    let mut wrong = store.check()?;
    if let Err(e) = index::check(store.folder()) {
        wrong.push(format!("{e}: delete {}; the next ingest builds it again", store.folder().join("index").display()));
    }
    if context.json {
        print_json(&json!({ "ok": wrong.is_empty(), "problems": wrong }))?;
    } else if wrong.is_empty() {
        print_line(&format!("{}: all is well", context.catalogue.display()))?;
    } else {
        for line in &wrong {
            print_line(line)?;
        }
    }
    Ok(exit_code(wrong.len() as u64))
}
