use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::factorize::{read_interactions, save_with_split, split_of};
use super::{Context, count, print_json, print_line};
use crate::error::Result;
use crate::factors::{Factors, Format, Names};

const EXAMPLES: &str = "\
Examples:
  debut factors align tonight --to last-night --out aligned
  debut factors export factors --to implicit --out model.npz
  debut factors import als-model --from spark --out factors --users users.ids --tracks tracks.ids

Formats:
  implicit  a file that the Python package implicit saves and loads, model.npz
  spark     a folder that Spark MLlib's ALSModel saves and loads: userFactors, itemFactors, metadata
  npy       a folder with users.npy and tracks.npy, float32 or float64 [n, d]; for LightFM, its user_embeddings and
            item_embeddings, without its biases

The names are in users.ids and tracks.ids, a line each, in the folder, or beside model.npz as model.users.ids and
model.tracks.ids: line i, from 0, names row i, or Spark's id i.

Imported factors fold listeners and tracks in with a plain lambda: implicit's, or als.regularisation for the others; and
with confidences 1 + confidence.alpha x evidence, where implicit takes alpha x evidence: --set both to what they were.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Writes factors for another program.
    Export {
        /// Made by `debut factorize`.
        #[arg(value_name = "FACTORS")]
        factors: PathBuf,

        /// implicit, spark or npy.
        #[arg(long, value_name = "FORMAT")]
        to: Format,

        /// The file (implicit) or folder.
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
    },
    /// Turns factors into the space of earlier ones, by the tracks that both have, and says how far they drifted.
    Align {
        /// Tonight's.
        #[arg(value_name = "FACTORS")]
        factors: PathBuf,

        /// Last night's.
        #[arg(long, value_name = "FACTORS")]
        to: PathBuf,

        /// Where the aligned factors go.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Takes factors that another program made.
    Import {
        /// The file (implicit) or folder.
        #[arg(value_name = "PATH")]
        path: PathBuf,

        /// implicit, spark or npy.
        #[arg(long, value_name = "FORMAT")]
        from: Format,

        /// Where the factors go.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,

        /// The names of the users, where they are not in their place.
        #[arg(long, value_name = "FILE")]
        users: Option<PathBuf>,

        /// The names of the tracks, where they are not in their place.
        #[arg(long, value_name = "FILE")]
        tracks: Option<PathBuf>,

        /// Where there are no names, the numbers of the rows, or Spark's ids, are the names.
        #[arg(long)]
        numbered: bool,

        /// What people did, for the number of listeners of each track: 1 where this is left out.
        #[arg(long, value_name = "EVENTS")]
        events: Option<PathBuf>,
    },
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let mut drift = None;
    let (factors, out) = match args.what {
        What::Align { factors: dir, to, out } => {
            let mut factors = Factors::load(&dir)?;
            let split = split_of(&dir, &factors)?;
            context.config.als.check()?;
            factors.config.same_space = context.config.als.same_space;
            drift = Some(factors.align(&Factors::load(&to)?)?);
            save_with_split(&out, split.as_ref(), || factors.save(&out))?;
            (factors, out)
        }
        What::Export { factors, to, out } => {
            let factors = Factors::load(&factors)?;
            factors.export(&out, to)?;
            (factors, out)
        }
        What::Import { path, from, out, users, tracks, numbered, events } => {
            let config = &context.config;
            let names = Names { users, tracks, numbered };
            let mut factors = Factors::import(&path, from, &names, &config.als, &config.confidence)?;
            if let Some(events) = events {
                let data = read_interactions(&events, &config.confidence, &config.events)?.0;
                let plays = |track| data.tracks.number(track).map_or(0, |n| data.plays[n as usize]);
                factors.plays = factors.tracks.iter().map(plays).collect();
            }
            save_with_split(&out, None, || factors.save(&out))?;
            (factors, out)
        }
    };
    if context.json {
        print_json(&json!({
            "space": factors.space, "users": factors.users.len(), "tracks": factors.tracks.len(),
            "dimensions": factors.dimensions(), "drift": drift, "out": out,
        }))?;
    } else {
        if let Some(drift) = drift {
            print_line(&format!(
                "{} in both: mean cosine {:.3} before and {:.3} after, residual {:.3}, {:.1} % moved (below 0.8); {}",
                count(drift.shared as u64, "track"),
                drift.cosine_before,
                drift.cosine_after,
                drift.residual,
                100.0 * drift.moved,
                factors.space,
            ))?;
        }
        print_line(&format!(
            "{} and {} in {} dimensions: {}",
            count(factors.users.len() as u64, "listener"),
            count(factors.tracks.len() as u64, "track"),
            factors.dimensions(),
            out.display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
