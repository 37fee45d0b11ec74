//! What `debut evaluate` found, as a page to read: Markdown with pictures beside it, and one self-contained HTML file.
//!
//! The table has the layout of tables 2 and 3 of A. van den Oord, S. Dieleman and B. Schrauwen, "Deep content-based music
//! recommendation" (NIPS 2013), whose numbers stand beside it for orientation: a row for each method, mAP and AUC first.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use super::Reliability;
use super::cold_start::MAP_LENGTH;
use super::metrics::MeanSe;
use super::study::{Metrics, Study};
use crate::artefact::atomic_write;
use crate::error::{Error, Result};
use crate::plot::{Bar, Bars, Chart, Series};

/// A row of the table.
pub struct Method {
    pub name: String,
    pub study: Study,
    /// Mean cosine of its vectors with the directions that listeners teach; none for a method without vectors.
    pub cosine: Option<f64>,
    /// What else is to be known of it: settings that were chosen, how many tracks it could say something of.
    pub note: Option<String>,
    /// Drawn in the curve of recall, and marked in the bars where it is the one that all is about.
    pub role: Role,
}

/// What a method is to the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What it is all about.
    Network,
    /// What it is compared with, artist by artist.
    Rival,
    /// A baseline that is drawn in the curves, too.
    Drawn,
    Other,
}

/// A row as a JSON object.
#[derive(Serialize)]
struct Line<'a> {
    method: &'a str,
    #[serde(flatten)]
    scores: &'a super::ColdStartScores,
    /// Standard errors over tracks.
    se_over_tracks: Metrics,
    /// Standard errors over models of one recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    se_over_models: Option<Metrics>,
    listed_popularity: MeanSe,
    #[serde(skip_serializing_if = "Option::is_none")]
    cosine: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
}

impl Method {
    /// As a JSON object: means with standard errors over listeners, and those over tracks and models.
    pub fn json(&self) -> impl Serialize {
        Line {
            method: &self.name,
            scores: &self.study.scores,
            se_over_tracks: self.study.over_tracks,
            se_over_models: self.study.over_models,
            listed_popularity: self.study.listed_popularity,
            cosine: self.cosine,
            note: self.note.as_deref(),
        }
    }
}

/// A table of texts.
struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(header: &[&str]) -> Table {
        Table { header: header.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            // A bar in a name would end the cell, a line break the row.
            let cells: Vec<String> = cells.iter().map(|c| c.replace('|', "\\|").replace(['\n', '\r'], " ")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule = format!("|{}\n", "---|".repeat(self.header.len()));
        line(&self.header) + &rule + &self.rows.iter().map(|r| line(r)).collect::<String>()
    }

    fn html(&self) -> String {
        let row = |cells: &[String], tag: &str| {
            let cells: String = cells.iter().map(|c| format!("<{tag}>{}</{tag}>", escape(c))).collect();
            format!("<tr>{cells}</tr>\n")
        };
        let rows: String = self.rows.iter().map(|r| row(r, "td")).collect();
        format!("<table>\n{}{rows}</table>\n", row(&self.header, "th"))
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The table of the scores, as Markdown: each mean ± its standard error over listeners (over tracks).
pub fn table(methods: &[Method]) -> String {
    scores(methods).markdown() + "\n" + LEGEND + "\n"
}

const LEGEND: &str = "± standard error over listeners, and in brackets over tracks (bootstrap).";

fn scores(methods: &[Method]) -> Table {
    let k = methods.first().map_or(0, |m| m.study.scores.k);
    let [map, recall, ndcg] = [format!("mAP@{MAP_LENGTH}"), format!("recall@{k}"), format!("NDCG@{k}")];
    let mut table = Table::new(&["method", &map, "AUC", &recall, &ndcg, "cosine"]);
    for method in methods {
        let (scores, over_tracks) = (&method.study.scores, &method.study.over_tracks);
        let cell = |score: MeanSe, tracks: f64| format!("{:.4} ± {:.4} ({tracks:.4})", score.mean, score.se);
        table.rows.push(vec![
            method.name.clone(),
            cell(scores.map, over_tracks.map),
            cell(scores.auc, over_tracks.auc),
            cell(scores.recall, over_tracks.recall),
            cell(scores.ndcg, over_tracks.ndcg),
            method.cosine.map_or(String::new(), |c| format!("{c:.3}")),
        ]);
    }
    table
}

/// What the methods' notes say, a line each; of models that were averaged their standard errors.
pub fn notes(methods: &[Method]) -> Vec<String> {
    let note = |m: &Method| {
        let over_models = m.study.over_models.map(|se| {
            let Metrics { map, auc, recall, ndcg } = se;
            format!("standard errors over models: mAP {map:.4}, AUC {auc:.4}, recall {recall:.4}, NDCG {ndcg:.4}")
        });
        let said: Vec<String> = m.note.iter().cloned().chain(over_models).collect();
        (!said.is_empty()).then(|| format!("{}: {}", m.name, said.join("; ")))
    };
    methods.iter().filter_map(note).collect()
}

/// What a report is made of.
pub struct Report<'a> {
    pub methods: &'a [Method],
    /// The command that made it.
    pub command: &'a str,
    /// What was scored on what: a line each.
    pub facts: &'a [String],
    /// The artist or album of each held-out track.
    pub labels: &'a [String],
    /// Of methods that say how sure they are.
    pub confidences: &'a [(String, Reliability)],
}

/// A part of the page.
enum Part {
    Heading(&'static str),
    Text(String),
    Code(String),
    List(Vec<String>),
    Table(Table),
    /// A file name and the picture.
    Picture(&'static str, String),
}

impl Report<'_> {
    /// Writes `report.html`, and `report.md` with its pictures beside it, into the folder.
    ///
    /// # Errors
    /// `Io` where they cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let parts = self.parts()?;
        let write = |name: &str, text: &str| atomic_write(&folder.join(name), |out| out.write_all(text.as_bytes()));
        for part in &parts {
            if let Part::Picture(name, svg) = part {
                write(name, svg)?;
            }
        }
        write("report.md", &markdown(&parts))?;
        write("report.html", &html(&parts))
    }

    fn parts(&self) -> Result<Vec<Part>> {
        let k = self.methods.first().map_or(0, |m| m.study.scores.k);
        let mut parts = vec![
            Part::Heading("How well are new tracks ranked?"),
            Part::Code(self.command.to_string()),
            Part::List(self.facts.to_vec()),
            Part::Table(scores(self.methods)),
            Part::Text(format!(
                "{LEGEND} Over listeners: had other listeners been asked. Over tracks: had other tracks been held out; with \
                 few of them this is the larger by far. Of each listener's list of all held-out tracks: mAP@{MAP_LENGTH}, \
                 the mean average precision (of all tracks where fewer are held out); AUC, how likely a track that he loves \
                 stands above another, 0.5 by chance; recall@{k}, the share of those that he loves among the first {k}; \
                 NDCG@{k}, the same with higher places counting more. Cosine: the mean with the direction that the other \
                 half of the listeners teaches."
            )),
            Part::List(notes(self.methods)),
        ];
        parts.extend(self.pictures(k));
        parts.extend(self.comparison()?);
        parts.extend(self.by_artist());
        parts.extend(self.reliability());
        parts.extend([Part::Heading("How popular is what is listed?"), Part::Table(self.popularity(k))]);
        parts.push(Part::Text(format!(
            "Where the {k} listed tracks stand among the held-out ones by the plays of the other half of the listeners, \
             which no method but the oracle and the ceilings knows: 0.5 is no bias, more a bias to the popular."
        )));
        parts.push(Part::Heading("The paper's numbers, of another data set, for orientation"));
        parts.push(Part::Text(PAPER.into()));
        parts.extend(paper().map(Part::Table));
        Ok(parts)
    }

    fn pictures(&self, k: usize) -> Vec<Part> {
        type Metric = fn(&Metrics) -> f64;
        let metrics: [(&'static str, String, f64, Metric); 4] = [
            ("map.svg", format!("mAP@{MAP_LENGTH}"), 0.0, |m| m.map),
            ("auc.svg", "AUC (bars begin at chance)".into(), 0.5, |m| m.auc),
            ("recall.svg", format!("recall@{k}"), 0.0, |m| m.recall),
            ("ndcg.svg", format!("NDCG@{k}"), 0.0, |m| m.ndcg),
        ];
        let bars = metrics.into_iter().map(|(file, title, from, metric)| {
            let bar = |m: &Method| Bar {
                name: m.name.clone(),
                value: metric(&(&m.study.scores).into()),
                error: metric(&m.study.over_tracks),
                marked: m.role == Role::Network,
            };
            let title = format!("{title}, ± standard error over tracks");
            Part::Picture(file, Bars { title, from, bars: self.methods.iter().map(bar).collect() }.svg())
        });
        let drawn = self.methods.iter().filter(|m| m.role != Role::Other);
        let series = drawn.map(|m| Series {
            name: m.name.clone(),
            points: m.study.recall_curve.iter().enumerate().map(|(i, &r)| ((i + 1) as f64, r)).collect(),
            dashed: m.role != Role::Network,
        });
        let chart = Chart {
            title: "Recall at each length of the list".into(),
            x_label: "k".into(),
            y_label: "recall@k".into(),
            series: series.collect(),
        };
        let caption = "Recall counts against as many as a list of k can show, so that a list of 1 can reach 1: with few tracks it \
                       may fall before it rises.";
        bars.chain([Part::Picture("recall-curve.svg", chart.svg()), Part::Text(caption.into())]).collect()
    }

    /// How far the first network is ahead of each other method.
    fn comparison(&self) -> Result<Vec<Part>> {
        let Some(network) = self.methods.iter().find(|m| m.role == Role::Network) else { return Ok(Vec::new()) };
        let mut table = Table::new(&["than", "mAP", "AUC", "recall", "NDCG"]);
        for other in self.methods.iter().filter(|m| !std::ptr::eq(*m, network)) {
            let (more, se) = network.study.ahead_of(&other.study)?;
            let cell = |more: f64, se: f64| format!("{more:+.4} ± {se:.4}");
            table.rows.push(vec![
                other.name.clone(),
                cell(more.map, se.map),
                cell(more.auc, se.auc),
                cell(more.recall, se.recall),
                cell(more.ndcg, se.ndcg),
            ]);
        }
        let text = format!(
            "What the {} scores more, ± the standard error over tracks of that difference: both methods are scored on the \
             same resamples, so what is hard for both cancels. A difference of more than two standard errors is hardly luck.",
            network.name
        );
        Ok(vec![Part::Heading("Is the network ahead?"), Part::Table(table), Part::Text(text)])
    }

    /// Whether confidences hold what they say.
    fn reliability(&self) -> Vec<Part> {
        if self.confidences.is_empty() {
            return Vec::new();
        }
        let mut table = Table::new(&["of", "tracks", "confidence", "cosine that came of it"]);
        let mut series =
            vec![Series { name: "as promised".into(), points: vec![(0.0, 0.0), (1.0, 1.0)], dashed: true }];
        let mut lines = Vec::new();
        for (name, found) in self.confidences {
            let points = found.bins.iter().map(|bin| (bin.confidence, bin.cosine.mean)).collect();
            series.push(Series { name: name.clone(), points, dashed: false });
            for bin in &found.bins {
                let cosine = format!("{:.3} ± {:.3}", bin.cosine.mean, bin.cosine.se);
                table.rows.push(vec![name.clone(), bin.cosine.n.to_string(), format!("{:.3}", bin.confidence), cosine]);
            }
            lines.push(format!(
                "{name}: {:.3} off on average (expected calibration error), rank correlation {:.3}, {:.1} % of the tracks \
                 above confidence less margin ({:.0} % promised).",
                found.error,
                found.rank_correlation,
                100.0 * found.above_margin,
                100.0 * found.promised
            ));
        }
        let chart = Chart {
            title: "Reliability of the confidence".into(),
            x_label: "mean confidence of a bin".into(),
            y_label: "mean cosine with what half of the listeners teach".into(),
            series,
        };
        vec![
            Part::Heading("Does the confidence hold what it says?"),
            Part::List(lines),
            Part::Picture("reliability.svg", chart.svg()),
            Part::Table(table),
        ]
    }

    /// Where the network wins and loses against its rival.
    fn by_artist(&self) -> Vec<Part> {
        let find = |role| self.methods.iter().find(|m| m.role == role);
        let (Some(network), Some(rival)) = (find(Role::Network), find(Role::Rival)) else { return Vec::new() };
        let sides = by_label(self.labels, &network.study.stands, &rival.study.stands);
        let mut table =
            Table::new(&["artist or album", "tracks", "loved by", &network.name, &rival.name, "difference"]);
        const EACH: usize = 10;
        let shown = |i: usize| i < EACH || i + EACH >= sides.len();
        for (_, side) in sides.iter().enumerate().filter(|(i, _)| shown(*i)) {
            table.rows.push(vec![
                side.label.clone(),
                side.tracks.to_string(),
                side.pairs.to_string(),
                format!("{:.3}", side.ours),
                format!("{:.3}", side.theirs),
                format!("{:+.3}", side.ours - side.theirs),
            ]);
        }
        let ahead = sides.iter().filter(|s| s.ours > s.theirs).count();
        let text = format!(
            "The share of the tracks that a listener does not love which stand below one that he loves, averaged over the \
             artist's or album's held-out tracks and those who love them (0.5 by chance). The {} is ahead for {ahead} of {}{}.",
            network.name,
            sides.len(),
            if sides.len() > 2 * EACH { "; the ten largest differences to either side are listed" } else { "" }
        );
        vec![Part::Heading("Where does it win and lose?"), Part::Table(table), Part::Text(text)]
    }

    fn popularity(&self, k: usize) -> Table {
        let mut table = Table::new(&["method", &format!("mean percentile of the first {k}")]);
        for m in self.methods {
            let MeanSe { mean, se, .. } = m.study.listed_popularity;
            table.rows.push(vec![m.name.clone(), format!("{mean:.3} ± {se:.3}")]);
        }
        table
    }
}

/// An artist's or album's held-out tracks with two methods.
#[derive(Debug, PartialEq)]
struct Side {
    label: String,
    tracks: usize,
    /// Pairs of a track and a listener who loves it.
    pairs: usize,
    ours: f64,
    theirs: f64,
}

/// Each label's stands, those where ours are the most ahead first. Labels that nobody loves are left out.
fn by_label(labels: &[String], ours: &[(f64, usize)], theirs: &[(f64, usize)]) -> Vec<Side> {
    let mut sides: BTreeMap<&str, (usize, usize, f64, f64)> = BTreeMap::new();
    for ((label, ours), theirs) in labels.iter().zip(ours).zip(theirs) {
        let side = sides.entry(label).or_default();
        let pairs = ours.1 as f64;
        *side = (side.0 + 1, side.1 + ours.1, side.2 + pairs * ours.0, side.3 + pairs * theirs.0);
    }
    let mut sides: Vec<Side> = (sides.into_iter().filter(|(_, side)| side.1 > 0))
        .map(|(label, (tracks, pairs, ours, theirs))| {
            let (ours, theirs) = (ours / pairs as f64, theirs / pairs as f64);
            Side { label: label.into(), tracks, pairs, ours, theirs }
        })
        .collect();
    sides.sort_by(|a, b| (b.ours - b.theirs).total_cmp(&(a.ours - a.theirs)).then_with(|| a.label.cmp(&b.label)));
    sides
}

fn markdown(parts: &[Part]) -> String {
    let mut out = String::new();
    for part in parts {
        // Writing to a String cannot fail.
        let _ = match part {
            Part::Heading(text) => writeln!(out, "## {text}\n"),
            Part::Text(text) => writeln!(out, "{text}\n"),
            // Four spaces are code whatever is in it.
            Part::Code(text) => writeln!(out, "    {}\n", text.replace(['\n', '\r'], " ")),
            Part::List(items) => {
                writeln!(out, "{}", items.iter().map(|i| format!("- {i}\n")).collect::<String>())
            }
            Part::Table(table) => writeln!(out, "{}", table.markdown()),
            Part::Picture(file, _) => writeln!(out, "![{file}]({file})\n"),
        };
    }
    out
}

fn html(parts: &[Part]) -> String {
    let mut out = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>debut: evaluation</title>\n<style>\n\
         body { font-family: sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.45; }\n\
         table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; font-size: 0.9rem; }\n\
         th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.6rem; text-align: left; }\n\
         pre { background: #f4f4f4; padding: 0.8rem; white-space: pre-wrap; }\n\
         svg { display: block; max-width: 45rem; margin: 1rem 0; }\n\
         </style>\n</head>\n<body>\n",
    );
    for part in parts {
        let _ = match part {
            Part::Heading(text) => writeln!(out, "<h2>{}</h2>", escape(text)),
            Part::Text(text) => writeln!(out, "<p>{}</p>", escape(text)),
            Part::Code(text) => writeln!(out, "<pre>{}</pre>", escape(text)),
            Part::List(items) => {
                let items: String = items.iter().map(|i| format!("<li>{}</li>\n", escape(i))).collect();
                writeln!(out, "<ul>\n{items}</ul>")
            }
            Part::Table(table) => writeln!(out, "{}", table.html()),
            Part::Picture(_, svg) => writeln!(out, "{svg}"),
        };
    }
    out.push_str("</body>\n</html>\n");
    out
}

const PAPER: &str = "From tables 2 and 3 of van den Oord, Dieleman and Schrauwen (NIPS 2013). Another data set, the \
    Million Song Dataset with the Taste Profile of real listeners, with thousands of held-out songs: mAP falls and AUC does \
    not as songs become more, so only the order of the methods can be compared with the table above.";

/// The paper's tables.
fn paper() -> [Table; 2] {
    let table = |title: &str, rows: &[(&str, &str, &str)]| Table {
        header: [title, "mAP", "AUC"].map(String::from).to_vec(),
        rows: rows.iter().map(|r| [r.0, r.1, r.2].map(String::from).to_vec()).collect(),
    };
    [
        table(
            "9,330 songs, 20,000 users, 50 factors; 1,881 held out (mAP@500)",
            &[
                ("metric learning to rank", "0.01801", "0.60608"),
                ("linear regression", "0.02389", "0.63518"),
                ("multilayer perceptron", "0.02536", "0.64611"),
                ("CNN, squared error", "0.05016", "0.70987"),
                ("CNN, weighted prediction error", "0.04323", "0.70101"),
            ],
        ),
        table(
            "382,410 songs, 1 million users, 400 factors; 46,728 held out",
            &[
                ("random", "0.00015", "0.49935"),
                ("linear regression", "0.00101", "0.64522"),
                ("CNN, squared error", "0.00672", "0.77192"),
                ("upper bound (factors)", "0.23278", "0.96070"),
            ],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_weighed_by_their_listeners_and_sorted_by_the_difference() {
        let labels = ["a", "b", "a", "c"].map(String::from);
        let ours = [(0.9, 3), (0.4, 1), (0.5, 1), (0.5, 0)];
        let theirs = [(0.5, 3), (0.7, 1), (0.5, 1), (0.5, 0)];
        let sides = by_label(&labels, &ours, &theirs);
        assert_eq!(sides.iter().map(|s| &s.label[..]).collect::<Vec<_>>(), ["a", "b"], "nobody loves c");
        assert_eq!((sides[0].tracks, sides[0].pairs, sides[0].theirs), (2, 4, 0.5));
        assert!((sides[0].ours - 0.8).abs() < 1e-12 && sides[1].ours < sides[1].theirs);
    }

    #[test]
    fn names_cannot_break_a_table_or_the_page() {
        let mut table = Table::new(&["a"]);
        table.rows.push(vec!["x | y\n<script>".into()]);
        assert_eq!(table.markdown(), "| a |\n|---|\n| x \\| y <script> |\n");
        assert!(table.html().contains("<td>x | y\n&lt;script&gt;</td>"));
        let page = html(&[Part::Text("1 < 2 & 3".into()), Part::List(vec!["<b>".into()]), Part::Code("<i>".into())]);
        for escaped in ["1 &lt; 2 &amp; 3", "<li>&lt;b&gt;</li>", "<pre>&lt;i&gt;</pre>"] {
            assert!(page.contains(escaped), "{page}");
        }
    }
}
