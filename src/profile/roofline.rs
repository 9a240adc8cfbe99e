//! A profile as a picture: the roofline (Williams, Waterman and Patterson, CACM 52(4), 2009), each kernel and shape a point, as SVG.

use super::Profile;
use super::lines::Line;
use std::fmt::Write as _;

/// The plot's corners within the picture, and the picture's size.
const PLOT: [f64; 4] = [70.0, 50.0, 620.0, 470.0];
const SIZE: [f64; 2] = [980.0, 530.0];
/// Kernels that are named, the longest shares first.
const NAMED: usize = 12;

/// A logarithmic axis from the tick below its least value to the tick above its largest.
struct Axis {
    low: i32,
    high: i32,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        values.filter(|v| *v > 0.0 && v.is_finite()).for_each(|v| (low, high) = (low.min(v), high.max(v)));
        if low > high {
            (low, high) = (1.0, 1.0);
        }
        let low = low.log10().floor() as i32;
        Axis { low, high: (high.log10().ceil() as i32).max(low + 1), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        self.from + (self.to - self.from) * part.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.low..=self.high).map(|e| 10f64.powi(e))
    }
}

impl Profile {
    /// The picture. Kernels without floating-point operations stand at the left edge, as far below the copy roof as their bytes a
    /// second are; what gave no time is not in it.
    pub fn to_svg(&self) -> String {
        let (copy, fma) = (self.roofs.copy.best, self.roofs.multiply_add.best);
        let ridge = fma / copy;
        let timed: Vec<&Line> = self.kernels.iter().filter(|l| l.times.is_some()).collect();
        let intensities = timed.iter().map(|l| l.flop_per_byte).filter(|&x| x > 0.01);
        let [left, top, right, bottom] = PLOT;
        let x = Axis::new(intensities.chain([ridge / 3.0, ridge * 3.0, 0.1]), left, right);
        let edge = 10f64.powi(x.low);
        let height = |line: &Line| line.gflop_s.unwrap_or(0.0).max(line.gb_s.unwrap_or(0.0) * edge);
        let y = Axis::new(timed.iter().map(|l| height(l)).chain([fma, copy * edge]), bottom, top);

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
            SIZE[0], SIZE[1]
        );
        let mut put = |element: String| svg += &(element + "\n");
        let text = |x: f64, y: f64, more: &str, words: &str| {
            format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {more}>{}</text>", escape(words))
        };
        let line = |from: [f64; 2], to: [f64; 2], more: &str| {
            format!("<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {more}/>", from[0], from[1], to[0], to[1])
        };
        put(text(left, 24.0, "font-size=\"14\"", &format!("Roofline: {}", self.device)));
        for tick in x.ticks() {
            put(line([x.at(tick), top], [x.at(tick), bottom], "stroke=\"#e4e4e4\""));
            put(text(x.at(tick), bottom + 16.0, "text-anchor=\"middle\"", &tick.to_string()));
        }
        for tick in y.ticks() {
            put(line([left, y.at(tick)], [right, y.at(tick)], "stroke=\"#e4e4e4\""));
            put(text(left - 6.0, y.at(tick) + 4.0, "text-anchor=\"end\"", &tick.to_string()));
        }
        put(text((left + right) / 2.0, bottom + 36.0, "text-anchor=\"middle\"", "FLOP a byte, by the cost model"));
        let (mid, turned) = ((top + bottom) / 2.0, "text-anchor=\"middle\" transform=\"rotate(-90 18 260)\"");
        put(text(18.0, mid, turned, "GFLOP/s"));
        let end = 10f64.powi(x.high);
        let roof = "stroke=\"#444444\" stroke-width=\"2\"";
        put(line([x.at(edge), y.at(copy * edge)], [x.at(ridge), y.at(fma)], roof));
        put(line([x.at(ridge), y.at(fma)], [x.at(end), y.at(fma)], roof));
        put(text(right, y.at(fma) - 6.0, "text-anchor=\"end\"", &format!("multiply-add {fma:.1} GFLOP/s")));
        let (rise, run) = (y.at(fma) - y.at(copy * edge), x.at(ridge) - x.at(edge));
        let (middle, slope) =
            ([(x.at(edge) + x.at(ridge)) / 2.0, (y.at(fma) + y.at(copy * edge)) / 2.0], rise.atan2(run).to_degrees());
        let along = format!("text-anchor=\"middle\" transform=\"rotate({slope:.1} {:.1} {:.1})\"", middle[0], middle[1]);
        put(text(middle[0], middle[1] - 6.0, &along, &format!("copy {copy:.1} GB/s")));

        // The largest below the others, so that each can be seen.
        for (i, kernel) in timed.iter().enumerate() {
            let (cx, cy) = (x.at(kernel.flop_per_byte.max(edge)), y.at(height(kernel)));
            let radius = 3.0 + 14.0 * kernel.share.unwrap_or(0.0).sqrt();
            let colour = if i < NAMED { "#1b6ca8" } else { "#999999" };
            put(format!(
                "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"{radius:.1}\" fill=\"{colour}\" fill-opacity=\"0.35\" stroke=\"{colour}\">\
                 <title>{}</title></circle>",
                escape(&describe(kernel))
            ));
        }
        // A number beside each of the first points, where no other number stands yet.
        let mut taken: Vec<[f64; 2]> = Vec::new();
        put(text(
            right + 20.0,
            top + 4.0,
            "font-weight=\"bold\"",
            if self.step.is_some() { "share of the device's time, part of its roof" } else { "part of its roof" },
        ));
        for (i, kernel) in timed.iter().enumerate().take(NAMED) {
            let (cx, cy) = (x.at(kernel.flop_per_byte.max(edge)), y.at(height(kernel)));
            let free = |&[px, py]: &[f64; 2]| taken.iter().all(|t| (t[0] - px).abs() > 16.0 || (t[1] - py).abs() > 11.0);
            let around = (0..72).map(|k| {
                let (angle, away) = (f64::from(k % 12) * std::f64::consts::PI / 6.0, f64::from(16 + 12 * (k / 12)));
                [cx + away * angle.cos(), cy - away * angle.sin()]
            });
            let inside = |p: &[f64; 2]| p[0] > left + 4.0 && p[0] < right - 4.0 && p[1] > top + 8.0 && p[1] < bottom - 4.0;
            let at = around.clone().find(|p| free(p) && inside(p)).unwrap_or([cx, cy]);
            taken.push(at);
            let number = (i + 1).to_string();
            put(line([cx, cy], at, "stroke=\"#1b6ca8\" stroke-width=\"0.5\""));
            // Twice, first as a halo: not every viewer knows the order of strokes and fills.
            let bold = "text-anchor=\"middle\" font-weight=\"bold\"";
            put(text(at[0], at[1] + 4.0, &format!("{bold} stroke=\"white\" stroke-width=\"3\""), &number));
            put(text(at[0], at[1] + 4.0, bold, &number));
            let below = top + 24.0 + 30.0 * i as f64;
            put(text(right + 38.0, below, "text-anchor=\"end\" font-weight=\"bold\"", &number));
            let name = format!("{} {}", kernel.name, kernel.shape);
            // Letters half as wide as high fill the margin; a longer name has smaller ones.
            let size = (2.0 * (SIZE[0] - right - 46.0) / name.len() as f64).min(11.0);
            put(text(right + 46.0, below, &format!("font-size=\"{size:.1}\""), &name));
            let share = kernel.share.map_or(String::new(), |share| format!("{:.1} %, ", 100.0 * share));
            let roof = format!("{share}at {:.1} % of its roof", kernel.roof_percent.unwrap_or(0.0));
            put(text(right + 46.0, below + 13.0, "fill=\"#666666\"", &roof));
        }
        svg + "</svg>\n"
    }
}

fn describe(line: &Line) -> String {
    let (gb, gflop) = (line.gb_s.unwrap_or(0.0), line.gflop_s.unwrap_or(0.0));
    format!("{} {}: {gb:.2} GB/s, {gflop:.2} GFLOP/s", line.name, line.shape)
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            // Writing to a String cannot fail.
            c if c.is_control() => drop(write!(escaped, " ")),
            c => escaped.push(c),
        }
    }
    escaped
}
