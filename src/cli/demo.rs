use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use super::factorize::read_interactions;
use super::handover::{adopt_space, hand_over_all};
use super::recommend::named;
use super::{Context, count, exit_code, model_folder, print_line, progress};
use crate::config::Config;
use crate::encoder::Model;
use crate::error::{Error, Result};
use crate::factors::Factors;
use crate::index::Filter;
use crate::ingest::{Hearing, Status, Summary, ingest};
use crate::inputs::{Input, read_manifest};
use crate::recommend::{Query, Recommender};
use crate::store::Store;

/// Needs no network, no server and no data of yours. What it prints can be asked again with the other verbs.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The folder of clips, with a tracks.csv.
    #[arg(long, value_name = "DIR")]
    samples: Option<PathBuf>,

    /// The model with its listeners; the shipped one where none is given.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let samples = args.samples.unwrap_or_else(|| {
        let here = PathBuf::from("audio-samples");
        if here.is_dir() { here } else { Path::new(env!("CARGO_MANIFEST_DIR")).join(here) }
    });
    let folder = model_folder(args.model.as_deref())?;
    let model = Model::load(&folder)?;
    let factors = Factors::load(&folder.join("factors"))?;
    let (data, _) = read_interactions(&folder.join("events.parquet"), &factors.confidence, &context.config.events)?;
    let words = read_manifest(&folder.join("tracks.csv"))?;
    let words = words.into_iter().filter_map(|i| Some((i.id?, i.info))).collect();

    let (uploads, clips): (Vec<Input>, Vec<Input>) = read_manifest(&samples.join("tracks.csv"))?
        .into_iter()
        .partition(|clip| clip.id.as_ref().is_some_and(|id| factors.held_out.contains(id)));
    let mut uploads = uploads.into_iter();
    let upload = uploads.next().ok_or_else(|| Error::NotFound {
        what: "clip that the model never heard",
        name: samples.display().to_string(),
    })?;
    // One is kept for the upload; what else the model never heard comes in with the rest.
    let clips: Vec<Input> = clips.into_iter().chain(uploads).collect();

    let mut store = fresh(&context.catalogue)?;
    adopt_space(&mut store, &folder, &model)?;
    print_line(&format!(
        "1. {} into a fresh catalogue, {}",
        count(clips.len() as u64, "clip"),
        context.catalogue.display()
    ))?;
    let mut summary = take_in(&mut store, &model, clips, &context)?;
    print_line(&format!("   {} added, {} failed", summary.added, summary.failed))?;

    print_line("\n2. The listeners, and what they played")?;
    let report = hand_over_all(&mut store, &factors, &data, &words, Some(&model.config), &context.config.handover)?;
    print_line(&format!(
        "   {} (simulated: see {}); {} played so far, {} of them here as clips",
        count(report.listeners, "listener"),
        folder.join("MODEL_CARD.md").display(),
        count(report.learned + report.handed_over, "track"),
        report.handed_over
    ))?;
    // As a service would: open all the time, beside whoever writes.
    let mut service = Recommender::open(&context.catalogue, &context.config.index, &context.config.recommend)?;
    service.refresh()?;

    // The manifest gave it an id, or it would not be among the held-out tracks.
    let id = upload
        .id
        .clone()
        .ok_or_else(|| Error::NotFound { what: "id of the upload", name: upload.path.display().to_string() })?;
    print_line(&format!("\n3. Upload: {}, which nobody has played", upload.path.display()))?;
    let started = Instant::now();
    let uploaded = take_in(&mut store, &model, vec![upload], &context)?;
    service.refresh()?;
    let nearest = service.recommend(&Query::Track(id.clone()), 5, &Filter::default())?;
    let ms = started.elapsed().as_secs_f64() * 1e3;
    summary.failed += uploaded.failed;
    print_line(&format!("   from file to recommendable: {ms:.0} ms (heard, predicted, on disk, searchable)"))?;
    let track =
        service.store().track(&id)?.ok_or_else(|| Error::NotFound { what: "uploaded track", name: id.to_string() })?;
    print_line(&format!(
        "\n   It is {}. Its nearest of {} tracks:",
        track.info.title.as_deref().unwrap_or(id.as_str()),
        service.len()
    ))?;
    for near in &nearest {
        print_line(&format!("     {:.3}  {}", near.score, named(near)))?;
    }
    print_line("\n   The listeners it is recommended to:")?;
    let audience = service.audience(&track.vector, 5)?;
    for listener in &audience {
        print_line(&format!("     {:.3}  {}", listener.score, listener.listener))?;
    }
    // The first of them on whose own list it stands, or the first of them.
    let mut shown = None;
    for listener in service.audience(&track.vector, 200)? {
        let list = service.recommend(&Query::User(listener.listener.clone()), 10, &Filter::default())?;
        let has = list.iter().any(|r| r.track == id);
        if shown.is_none() || has {
            shown = Some((listener.listener, list));
        }
        if has {
            break;
        }
    }
    if let Some((listener, list)) = shown {
        print_line(&format!("\n   What {listener} is shown now:"))?;
        for (i, r) in list.iter().enumerate() {
            let new = if r.track == id { "   <- the upload" } else { "" };
            print_line(&format!("    {:>2}  {:.3}  {}{new}", i + 1, r.score, named(r)))?;
            let because: Vec<&str> = r.because.iter().map(|b| b.title.as_deref().unwrap_or(b.track.as_str())).collect();
            if !because.is_empty() {
                print_line(&format!("               because of {}", because.join(", ")))?;
            }
        }
        print_line("\nAsk more of it:")?;
        let catalogue = context.catalogue.display();
        print_line(&format!("  debut --catalogue {catalogue} recommend --user {listener} --json"))?;
        print_line(&format!("  debut --catalogue {catalogue} recommend --track {id} --listeners 5"))?;
        print_line(&format!("  debut --catalogue {catalogue} status"))?;
        print_line("Or with your own music:\n  debut ingest ~/Music && debut recommend --file ~/Music/some-song.mp3")?;
    }
    Ok(exit_code(summary.failed))
}

fn take_in(store: &mut Store, model: &Model, inputs: Vec<Input>, context: &Context) -> Result<Summary> {
    let bar = progress(inputs.len() as u64, "   listening");
    let Config { listen, ingest: config, .. } = &context.config;
    let hearing = Hearing { listening: listen, cache: None };
    let summary = ingest(store, model, inputs.into_iter().map(Ok), hearing, config, &context.stop, &mut |outcome| {
        bar.inc(1);
        if outcome.status == Status::Failed {
            let reason = outcome.reason.as_deref().unwrap_or("no reason given");
            bar.suspend(|| eprintln!("   failed: {}: {reason}", outcome.path.display()));
        }
    })?;
    bar.finish_and_clear();
    Ok(summary)
}

/// A new catalogue; the one of an earlier demo is taken away first, anybody else's is refused.
fn fresh(folder: &Path) -> Result<Store> {
    const MARK: &str = "made-by-debut-demo";
    if folder.exists() {
        if !folder.join(MARK).is_file() {
            return Err(Error::invalid("catalogue for the demo", "a folder that is not there yet", folder.display()));
        }
        // Refused while another process writes to it.
        drop(Store::open(folder)?);
        fs::remove_dir_all(folder).map_err(Error::io(folder))?;
    }
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    fs::write(folder.join(MARK), "The next `debut demo` replaces this folder.\n").map_err(Error::io(folder))?;
    Store::open(folder)
}
