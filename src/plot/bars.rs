//! Horizontal bars with whiskers: one number and its standard error for each of some methods.

use std::fmt::Write as _;

use super::{Axis, WIDTH, escape};

/// A chart of bars.
#[derive(Clone, Debug)]
pub struct Bars {
    pub title: String,
    /// Where bars begin: 0, or what chance scores.
    pub from: f64,
    pub bars: Vec<Bar>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Bar {
    pub name: String,
    pub value: f64,
    /// The whisker reaches this far to both sides; none where it is 0.
    pub error: f64,
    /// Drawn in the other colour.
    pub marked: bool,
}

/// The place for names, and the height of a bar with its gap, in pixels.
const NAMES: f64 = 250.0;
const ROW: f64 = 24.0;
const TOP: f64 = 36.0;
const RIGHT: f64 = 70.0;

impl Bars {
    /// The chart as an SVG document. Bars whose value is not finite have no length.
    pub fn svg(&self) -> String {
        let finite = |x: f64| if x.is_finite() { x } else { self.from };
        let ends = self.bars.iter().flat_map(|b| [finite(b.value - b.error), finite(b.value + b.error)]);
        let axis = Axis::over(ends.chain([self.from]));
        let across = |v: f64| NAMES + (finite(v) - axis.from) / (axis.to - axis.from) * (WIDTH - NAMES - RIGHT);
        let bottom = TOP + ROW * self.bars.len() as f64;
        let mut svg = String::new();
        // Writing to a String cannot fail, so the results of `write!` are dropped.
        let _ = write!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"8\" y=\"22\" font-size=\"15\">{}</text>\n",
            bottom + 28.0,
            escape(&self.title)
        );
        for tick in axis.ticks() {
            let x = across(tick);
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#dddddd\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 17.0,
                axis.label(tick)
            );
        }
        let zero = across(self.from);
        for (i, bar) in self.bars.iter().enumerate() {
            let middle = TOP + ROW * (i as f64 + 0.5);
            let (end, colour) = (across(bar.value), if bar.marked { "#d55e00" } else { "#0072b2" });
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
                NAMES - 8.0,
                middle + 4.0,
                escape(&bar.name),
                zero.min(end),
                middle - 0.35 * ROW,
                (end - zero).abs(),
                0.7 * ROW
            );
            let mut right = end.max(zero);
            if bar.error > 0.0 && bar.error.is_finite() {
                let (low, high) = (across(bar.value - bar.error), across(bar.value + bar.error));
                right = right.max(high);
                let _ = writeln!(
                    svg,
                    "<path d=\"M{low:.1} {middle}H{high:.1}M{low:.1} {0}v8M{high:.1} {0}v8\" stroke=\"black\"/>",
                    middle - 4.0
                );
            }
            let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{:.4}</text>", right + 6.0, middle + 4.0, bar.value);
        }
        let _ = write!(svg, "<path d=\"M{zero:.1} {TOP}V{bottom}\" stroke=\"black\"/>\n</svg>\n");
        svg
    }
}

#[test]
fn bars_begin_at_their_origin_and_end_at_their_value() {
    let bar = |name: &str, value, error| Bar { name: name.into(), value, error, marked: false };
    let bars = vec![bar("chance", 0.5, 0.0), bar("a < b", 0.75, 0.05), bar("worse", 0.25, 0.05)];
    let svg = Bars { title: "AUC".into(), from: 0.5, bars }.svg();
    assert!(svg.contains("a &lt; b") && svg.ends_with("</svg>\n"));
    let number = |text: &str, name: &str| -> f64 {
        let rest = &text[text.find(&format!("{name}=\"")).unwrap() + name.len() + 2..];
        rest[..rest.find('"').unwrap()].parse().unwrap()
    };
    let rectangles: Vec<&str> = svg.split("<rect ").skip(2).collect();
    let [chance, better, worse] = [0, 1, 2].map(|i| (number(rectangles[i], "x"), number(rectangles[i], "width")));
    // The axis is 0.2 to 0.8 over 400 pixels from 250 on.
    assert_eq!((chance.0, chance.1), (450.0, 0.0));
    assert!((better.0 - 450.0).abs() < 0.1 && (better.1 - 166.7).abs() < 0.1, "{better:?}");
    assert!((worse.0 + worse.1 - 450.0).abs() < 0.15 && (worse.1 - 166.7).abs() < 0.1, "{worse:?}");
    assert_eq!(svg.matches("v8M").count(), 2, "no whisker without an error");
    let lost = Bars { title: String::new(), from: 0.0, bars: vec![bar("nothing", f64::NAN, f64::NAN)] }.svg();
    assert!(lost.matches("NaN").count() == 1 && lost.contains(">NaN</text>"), "only as a number: {lost}");
}
