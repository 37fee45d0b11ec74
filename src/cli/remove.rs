use std::process::ExitCode;

use serde_json::json;

use super::{Context, exit_code, print_json, print_line};
use crate::error::Result;
use crate::ids::TrackId;
use crate::store::{Change, Store};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Ids of tracks.
    #[arg(required = true, value_name = "TRACK")]
    tracks: Vec<TrackId>,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    // A catalogue that is not there is an error here, not a new one.
    Store::read(&context.catalogue)?;
    let mut store = Store::open(&context.catalogue)?;
    let mut missing = 0;
    for id in &args.tracks {
        let there = store.contains(id)?;
        if there {
            store.commit(&[Change::Remove(id.clone())])?;
        } else {
            missing += 1;
        }
        let status = if there { "removed" } else { "not there" };
        if context.json {
            print_json(&json!({ "track": id, "status": status.replace(' ', "_") }))?;
        } else {
            print_line(&format!("{id}: {status}"))?;
        }
    }
    Ok(exit_code(missing))
}
