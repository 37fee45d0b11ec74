//! Pictures: lines and bars as SVG, a spectrogram as PNG.

mod bars;

use std::fmt::Write as _;
use std::path::Path;

use ndarray::ArrayView2;

use crate::artefact::atomic_write;
use crate::error::{Error, Result};

pub use bars::{Bar, Bars};

/// A line chart.
#[derive(Clone, Debug)]
pub struct Chart {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    pub series: Vec<Series>,
}

/// One line of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    /// (x, y); points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    pub dashed: bool,
}

/// The picture's size and its margins, in pixels.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 52.0;
const LEGEND_WIDTH: f64 = 190.0;
const LEGEND_ROW: f64 = 17.0;

/// Okabe & Ito's palette (2008), told apart by colour-blind readers too.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#777777", "#009e73", "#cc79a7", "#e69f00"];

impl Chart {
    /// The chart as an SVG document.
    pub fn svg(&self) -> String {
        let finite = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite();
        let all: Vec<(f64, f64)> = self.series.iter().flat_map(|s| s.points.iter().filter(finite).copied()).collect();
        let (x, y) = (Axis::over(all.iter().map(|p| p.0)), Axis::over(all.iter().map(|p| p.1)));
        let across = |v: f64| LEFT + (v - x.from) / (x.to - x.from) * (WIDTH - LEFT - RIGHT);
        let up = |v: f64| HEIGHT - BOTTOM - (v - y.from) / (y.to - y.from) * (HEIGHT - TOP - BOTTOM);
        let mut svg = String::new();
        // Writing to a String cannot fail, so the results of `write!` are dropped.
        let _ = write!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
            escape(&self.title)
        );
        for tick in y.ticks() {
            let (at, right) = (up(tick), WIDTH - RIGHT);
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#dddddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                at + 4.0,
                y.label(tick)
            );
        }
        for tick in x.ticks() {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                across(tick),
                HEIGHT - BOTTOM + 18.0,
                x.label(tick)
            );
        }
        let _ = write!(
            svg,
            "<path d=\"M{LEFT} {TOP}V{0}H{1}\" fill=\"none\" stroke=\"black\"/>\n\
             <text x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"middle\">{4}</text>\n\
             <text transform=\"translate(16 {5:.1}) rotate(-90)\" text-anchor=\"middle\">{6}</text>\n",
            HEIGHT - BOTTOM,
            WIDTH - RIGHT,
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 14.0,
            escape(&self.x_label),
            (TOP + HEIGHT - BOTTOM) / 2.0,
            escape(&self.y_label)
        );
        let drawn: Vec<(f64, f64)> = all.iter().map(|p| (across(p.0), up(p.1))).collect();
        let (left, first) = self.legend_place(&drawn);
        for (i, series) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let dash = if series.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let points: Vec<String> =
                series.points.iter().filter(finite).map(|p| format!("{:.1},{:.1}", across(p.0), up(p.1))).collect();
            if let [only] = &points[..] {
                let (cx, cy) = only.split_once(',').unwrap_or((only, "0"));
                let _ = writeln!(svg, "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3\" fill=\"{colour}\"/>");
            }
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"{dash}/>",
                points.join(" ")
            );
            let top = first + LEGEND_ROW * i as f64;
            let _ = writeln!(
                svg,
                "<path d=\"M{left} {0:.1}h24\" stroke=\"{colour}\" stroke-width=\"1.8\"{dash}/>\
                 <text x=\"{1:.1}\" y=\"{2:.1}\">{3}</text>",
                top - 4.0,
                left + 30.0,
                top,
                escape(&series.name)
            );
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Where the legend's names begin, from the left and from the top: in the corner that covers the fewest points.
    fn legend_place(&self, points: &[(f64, f64)]) -> (f64, f64) {
        let height = LEGEND_ROW * self.series.len() as f64;
        let corners = [
            (WIDTH - RIGHT - LEGEND_WIDTH, TOP),
            (LEFT + 8.0, TOP),
            (WIDTH - RIGHT - LEGEND_WIDTH, HEIGHT - BOTTOM - height),
            (LEFT + 8.0, HEIGHT - BOTTOM - height),
        ];
        let covered = |&(left, top): &(f64, f64)| {
            let inside =
                |&&(x, y): &&(f64, f64)| (left..left + LEGEND_WIDTH).contains(&x) && (top..top + height).contains(&y);
            points.iter().filter(inside).count()
        };
        // Of equals the first.
        let (left, top) = corners.into_iter().min_by_key(covered).unwrap_or(corners[0]);
        (left, top + 14.0)
    }
}

/// An axis from one value to another, with a tick at every multiple of `step`.
struct Axis {
    from: f64,
    to: f64,
    step: f64,
}

impl Axis {
    /// An axis that holds all values and begins and ends at a tick.
    fn over(values: impl Iterator<Item = f64>) -> Axis {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = match (low.is_finite(), low < high) {
            (true, true) => (low, high),
            (true, false) => (low - 0.5, low + 0.5),
            (false, _) => (0.0, 1.0),
        };
        // About six ticks at a round distance: 1, 2 or 5 times a power of ten.
        let rough = (high - low) / 6.0;
        let ten = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * ten).into_iter().find(|&s| s >= rough).unwrap_or(10.0 * ten);
        Axis { from: (low / step).floor() * step, to: (high / step).ceil() * step, step }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.to - self.from) / self.step).round().min(100.0) as usize;
        (0..=count).map(|i| self.from + i as f64 * self.step)
    }

    /// With as many decimals as the step needs.
    fn label(&self, tick: f64) -> String {
        let decimals = (-self.step.log10().floor()).clamp(0.0, 12.0) as usize;
        let text = format!("{tick:.decimals$}");
        if text.trim_start_matches('-').chars().all(|c| matches!(c, '0' | '.')) { "0".into() } else { text }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Draws a spectrogram `[frames, bands]` as PNG: time from left to right, low bands at the bottom, dark is quiet. Each
/// number becomes a square of `scale` pixels (2 suits 599 × 128).
///
/// # Errors
/// `Invalid` for an empty or enormous picture, `Io`.
pub fn spectrogram_png(path: &Path, spectrogram: ArrayView2<f32>, scale: usize) -> Result<()> {
    let (frames, bands) = spectrogram.dim();
    let (width, height) = (frames.saturating_mul(scale), bands.saturating_mul(scale));
    // 64 million pixels are 200 MB.
    if width == 0 || height == 0 || width.saturating_mul(height) > 1 << 26 {
        let found = format!("{width} x {height} pixels");
        return Err(Error::invalid("the size of a spectrogram's picture", "1 to 67108864 pixels", found));
    }
    let finite = spectrogram.iter().copied().filter(|x| x.is_finite());
    let (low, high) = finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
    let mut pixels = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        let band = bands - 1 - y / scale;
        for x in 0..width {
            let level = (spectrogram[[x / scale, band]] - low) / (high - low);
            // One level everywhere, or a number that is not finite, is drawn as quiet.
            pixels.extend(cubehelix(if level.is_finite() { level } else { 0.0 }));
        }
    }
    atomic_write(path, |out| {
        let mut encoder = png::Encoder::new(out, width as u32, height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(std::io::Error::other)?;
        writer.write_image_data(&pixels).map_err(std::io::Error::other)?;
        writer.finish().map_err(std::io::Error::other)
    })
}

/// The colour of a level from 0 (black) to 1 (white): cubehelix, D. A. Green, "A colour scheme for the display of
/// astronomical intensity images" (2011), eq. 2, with its standard start 0.5 and -1.5 turns. Its brightness rises
/// evenly, so it reads the same in grey.
fn cubehelix(level: f32) -> [u8; 3] {
    let level = level.clamp(0.0, 1.0);
    let angle = 2.0 * std::f32::consts::PI * (0.5 / 3.0 - 1.5 * level);
    let amplitude = level * (1.0 - level) / 2.0;
    let (sin, cos) = angle.sin_cos();
    [-0.14861 * cos + 1.78277 * sin, -0.29227 * cos - 0.90649 * sin, 1.97294 * cos]
        .map(|c| ((level + amplitude * c).clamp(0.0, 1.0) * 255.0).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    #[test]
    fn brightness_rises_with_the_level() {
        let grey = |l: f32| {
            let [r, g, b] = cubehelix(l).map(f32::from);
            0.30 * r + 0.59 * g + 0.11 * b
        };
        let greys: Vec<f32> = (0..=50).map(|i| grey(i as f32 / 50.0)).collect();
        assert!(greys.is_sorted(), "{greys:?}");
        assert_eq!((cubehelix(0.0), cubehelix(1.0)), ([0; 3], [255; 3]));
    }

    #[test]
    fn low_bands_are_at_the_bottom_and_time_runs_to_the_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.png");
        let mut mel = Array2::zeros((5, 3));
        mel[[4, 0]] = 9.0; // the last frame's lowest band
        mel[[1, 1]] = f32::NAN;
        spectrogram_png(&path, mel.view(), 2).unwrap();
        let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (10, 6));
        let white: Vec<(usize, usize)> = (0..60).filter(|i| pixels[3 * i] == 255).map(|i| (i % 10, i / 10)).collect();
        assert_eq!(white, [(8, 4), (9, 4), (8, 5), (9, 5)]);
        assert!(spectrogram_png(&path, mel.slice(ndarray::s![..0, ..]), 2).is_err());
        assert!(spectrogram_png(&path, mel.view(), usize::MAX).is_err());
    }

    #[test]
    fn axes_have_round_ticks_that_hold_everything() {
        let axis = Axis::over([0.13, 0.94].into_iter());
        let ticks: Vec<String> = axis.ticks().map(|t| axis.label(t)).collect();
        assert_eq!(ticks, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        let flat = Axis::over([7.0].into_iter());
        assert!(flat.from < 7.0 && flat.to > 7.0);
        assert!(Axis::over(std::iter::empty()).ticks().count() > 1);
    }

    #[test]
    fn a_chart_holds_every_line_and_escapes_names() {
        let series = |name: &str, points: Vec<(f64, f64)>| Series { name: name.into(), points, dashed: true };
        let chart = Chart {
            title: "a < b & c".into(),
            x_label: String::new(),
            y_label: String::new(),
            series: vec![series("one", vec![(1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0)]), series("dot", vec![(1.0, 1.0)])],
        };
        let svg = chart.svg();
        assert!(svg.contains("a &lt; b &amp; c") && !svg.contains("NaN"));
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 1));
        let place = |points: Vec<(f64, f64)>| {
            Chart { series: vec![series("one", points)], ..chart.clone() }.svg().contains("M514 50.0h24")
        };
        assert!(
            place(vec![(0.0, 0.0), (10.0, 1.0)])
                && !place((0..9).map(|i| (f64::from(i), 1.0)).chain([(9.0, 0.0)]).collect())
        );
        let empty = Chart { series: vec![], ..chart };
        assert!(empty.svg().ends_with("</svg>\n"));
    }
}
