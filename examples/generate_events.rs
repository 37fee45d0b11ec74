//! Makes a listening log of any length, to measure with: `cargo run --release --example generate_events -- --help`.
//!
//! ```sh
//! cargo run --release --example generate_events -- --users 1000000 --tracks 100000 --events 100000000 --out events.parquet
//! ```
//!
//! What it has in common with real logs, and where its numbers come from:
//!
//! * a track's popularity is Zipf-Mandelbrot, `1 / (rank + 20)^0.95`;
//! * taste: each track belongs to one cluster of `--clusters`, and to a second in one of five draws; a listener draws from
//!   three clusters, with 0.6, 0.3 and 0.1, and in 15 % of the draws from all tracks, whatever his taste;
//! * how much a listener listens is log-normal (σ = 1);
//! * replays: a listener has a list of tracks without end, drawn as above, and each event is of the one at place `⌊u⁻⁵⌋`
//!   of it: there are favourites, and there is always something new (100 events are of some 45 tracks, 10,000 of 2,000);
//! * events come in the order of time, evenly over a year.
//!
//! Of the events 85 % are plays and skips; a track that is not to a listener's taste is skipped in every second play,
//! another in every sixth. Every number follows from the seed and the number of the event, so memory holds the alias
//! tables alone (16 bytes a listener, some 60 a track), and no more with more events.

use std::path::PathBuf;

use clap::Parser;
use debut::events::{Action, Event, write_events_parquet};
use debut::ids::{TrackId, UserId};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Writes time,user,track,action,value as Parquet; the same file for the same arguments.
#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    tracks: u32,
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    clusters: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, value_name = "FILE.parquet")]
    out: PathBuf,
}

/// Unix seconds: the year 2025.
const START: u64 = 1_735_689_600;
const YEAR: u64 = 365 * 86_400;

fn main() -> debut::Result<()> {
    let args = Args::parse();
    let world = World::new(&args);
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let events = (0..args.events).map(|i| {
        let time = START + (u128::from(i) * u128::from(YEAR) / u128::from(args.events)) as u64;
        world.event(time as i64, &mut rng)
    });
    write_events_parquet(&args.out, events)
}

struct World {
    seed: u64,
    activity: Alias,
    popularity: Alias,
    /// For each cluster, its tracks, and how to draw from them.
    clusters: Vec<(Vec<u32>, Alias)>,
}

impl World {
    fn new(args: &Args) -> World {
        let mut rng = ChaCha8Rng::seed_from_u64(args.seed ^ 0x0077_6f72_6c64);
        let activity: Vec<f64> = (0..args.users).map(|_| normal(&mut rng).exp()).collect();
        // The number of a track is its rank.
        let weight = |rank: u32| (f64::from(rank) + 20.0).powf(-0.95);
        let mut members = vec![(Vec::new(), Vec::new()); args.clusters as usize];
        for track in 0..args.tracks {
            for share in [0.8, 0.2] {
                let (tracks, weights) = &mut members[rng.random_range(0..args.clusters as usize)];
                tracks.push(track);
                weights.push(share * weight(track));
            }
        }
        members.retain(|(tracks, _)| !tracks.is_empty());
        World {
            seed: args.seed,
            activity: Alias::new(&activity),
            popularity: Alias::new(&(0..args.tracks).map(weight).collect::<Vec<_>>()),
            clusters: members.into_iter().map(|(tracks, weights)| (tracks, Alias::new(&weights))).collect(),
        }
    }

    fn event(&self, time: i64, rng: &mut ChaCha8Rng) -> Event {
        let user = self.activity.draw(rng);
        let place = rng.random_range(1e-3..1.0f64).powi(-5) as u64;
        let (track, is_taste) = self.place_on_list(user, place);
        let u: f64 = rng.random();
        let (action, value) = if u < 0.85 {
            let skipped = rng.random_bool(if is_taste { 1.0 / 6.0 } else { 0.5 });
            let share: f64 = rng.random();
            if skipped { (Action::Skip, share) } else { (Action::Play, share.max(0.5)) }
        } else {
            let action = match (u - 0.85) / 0.15 {
                v if v < 0.5 => Action::Complete,
                v if v < 0.75 => Action::Like,
                v if v < 0.80 => Action::Unlike,
                v if v < 0.95 => Action::Add,
                v if v < 0.98 => Action::Remove,
                _ => Action::Dislike,
            };
            (action, 1.0)
        };
        let taken = "letters and digits";
        Event {
            time,
            user: UserId::new(format!("user-{user}")).expect(taken),
            track: TrackId::new(format!("track-{track}")).expect(taken),
            action,
            value: value as f32,
        }
    }

    /// The track that stands there on the listener's list, and whether it does because of his taste.
    fn place_on_list(&self, user: u32, place: u64) -> (u32, bool) {
        let mut rng = SplitMix(self.seed ^ (u64::from(user) << 32));
        let tastes = [(); 3].map(|()| (rng.next() % self.clusters.len() as u64) as usize);
        let mut rng = SplitMix(rng.next() ^ place);
        if rng.unit() < 0.15 {
            return (self.popularity.pick(rng.unit(), rng.unit()), false);
        }
        let (tracks, alias) = &self.clusters[match rng.unit() {
            u if u < 0.6 => tastes[0],
            u if u < 0.9 => tastes[1],
            _ => tastes[2],
        }];
        (tracks[alias.pick(rng.unit(), rng.unit()) as usize], true)
    }
}

/// Steele, Lea & Flood 2014: a generator that costs nothing to start, for what must be drawn alike each time.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to below 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Box and Muller.
fn normal(rng: &mut impl Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Draws numbers by their weights in constant time (Walker's alias method, as Vose 1991 builds it).
struct Alias {
    /// Of each number, how often it is itself, and who it is otherwise.
    table: Vec<(f64, u32)>,
}

impl Alias {
    fn new(weights: &[f64]) -> Alias {
        let mean = weights.iter().sum::<f64>() / weights.len() as f64;
        let mut table: Vec<(f64, u32)> = weights.iter().zip(0..).map(|(w, i)| (w / mean, i)).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) =
            (0..weights.len() as u32).partition(|&i| table[i as usize].0 < 1.0);
        while let (Some(&less), Some(&more)) = (small.last(), large.last()) {
            small.pop();
            table[less as usize].1 = more;
            table[more as usize].0 -= 1.0 - table[less as usize].0;
            if table[more as usize].0 < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        // What is left is 1 but for rounding.
        small.into_iter().chain(large).for_each(|i| table[i as usize].0 = 1.0);
        Alias { table }
    }

    fn draw(&self, rng: &mut impl Rng) -> u32 {
        self.pick(rng.random(), rng.random())
    }

    /// From two numbers, each evenly from 0 to below 1.
    fn pick(&self, where_: f64, which: f64) -> u32 {
        let i = (where_ * self.table.len() as f64) as usize;
        let (share, other) = self.table[i];
        if which < share { i as u32 } else { other }
    }
}
