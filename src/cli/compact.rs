use std::process::ExitCode;

use serde_json::json;

use super::{Context, count, print_json, print_line};
use crate::error::Result;
use crate::store::Store;

/// Drops what is kept for `debut reindex --back`, and what an interrupted build left; then writes the database anew, without
/// the room of what was removed. Takes up to twice as much disk again while it runs. Readers go on, but for services that
/// have not yet followed the last `debut reindex`: what they ask fails until they have.
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_: Args, context: Context) -> Result<ExitCode> {
    // A catalogue that is not there is an error here, not a new one.
    let before = Store::read(&context.catalogue)?.status()?.bytes;
    let mut store = Store::open(&context.catalogue)?;
    let dropped = store.drop_unserved()?;
    store.compact()?;
    let after = store.status()?.bytes;
    if context.json {
        print_json(&json!({ "generations_dropped": dropped, "bytes_before": before, "bytes": after }))?;
    } else {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let dropped = count(dropped as u64, "generation");
        print_line(&format!("{dropped} dropped; {:.1} MB before, {:.1} MB now", mb(before), mb(after)))?;
    }
    Ok(ExitCode::SUCCESS)
}
