//! A plot on logarithmic axes, as SVG.

use std::fmt::Write;

pub struct Series {
    pub name: &'static str,
    pub colour: &'static str,
    /// Positive values: x and y.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 130.0;
const BOTTOM: f64 = 56.0;

/// Both axes span whole decades around the points.
pub fn svg(title: &str, x_label: &str, y_label: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let (x_low, x_high) = decades(points().map(|point| point.0));
    let (y_low, y_high) = decades(points().map(|point| point.1));
    let x = |value: f64| LEFT + (value.log10() - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - (value.log10() - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM);

    let mut out = String::new();
    let _ = writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">"#
    );
    let _ = writeln!(out, r#"<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>"#);
    let _ = writeln!(out, r#"<text x="{LEFT}" y="26" font-size="17">{title}</text>"#);
    for (number, series) in series.iter().enumerate() {
        let line = 46.0 + 19.0 * number as f64;
        let (colour, name) = (series.colour, series.name);
        let _ = writeln!(
            out,
            r#"<line x1="{LEFT}" x2="{}" y1="{line}" y2="{line}" stroke="{colour}" stroke-width="3"/>"#,
            LEFT + 26.0
        );
        let _ = writeln!(out, r#"<text x="{}" y="{}">{name}</text>"#, LEFT + 34.0, line + 4.0);
    }
    for decade in x_low as i32..=x_high as i32 {
        let at = x(10f64.powi(decade));
        let _ =
            writeln!(out, r##"<line x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{}" stroke="#ddd"/>"##, HEIGHT - BOTTOM);
        let (below, label) = (HEIGHT - BOTTOM + 18.0, grouped(decade));
        let _ = writeln!(out, r#"<text x="{at:.1}" y="{below}" text-anchor="middle">{label}</text>"#);
    }
    for decade in y_low as i32..=y_high as i32 {
        let at = y(10f64.powi(decade));
        let _ =
            writeln!(out, r##"<line x1="{LEFT}" x2="{}" y1="{at:.1}" y2="{at:.1}" stroke="#ddd"/>"##, WIDTH - RIGHT);
        let (left, label) = (LEFT - 8.0, grouped(decade));
        let _ = writeln!(out, r#"<text x="{left}" y="{:.1}" text-anchor="end">{label}</text>"#, at + 4.0);
    }
    let _ = writeln!(out, r#"<text x="{}" y="{}" text-anchor="middle">{x_label}</text>"#, WIDTH / 2.0, HEIGHT - 14.0);
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    let _ = writeln!(
        out,
        r#"<text x="20" y="{middle}" text-anchor="middle" transform="rotate(-90 20 {middle})">{y_label}</text>"#
    );
    for series in series {
        let line: Vec<String> =
            series.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let (colour, line) = (series.colour, line.join(" "));
        let _ = writeln!(out, r#"<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>"#);
        for point in &series.points {
            let _ = writeln!(out, r#"<circle cx="{:.1}" cy="{:.1}" r="3.5" fill="{colour}"/>"#, x(point.0), y(point.1));
        }
    }
    out.push_str("</svg>\n");
    out
}

fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    let (low, high) = (low.log10().floor(), high.log10().ceil());
    if high > low { (low, high) } else { (low, low + 1.0) }
}

/// A power of ten in digits.
fn grouped(decade: i32) -> String {
    match decade {
        3.. => format!("{}{}", 10_i64.pow(decade as u32 % 3), ",000".repeat(decade as usize / 3)),
        0..3 => format!("{}", 10_i64.pow(decade as u32)),
        _ => format!("{:.*}", decade.unsigned_abs() as usize, 10f64.powi(decade)),
    }
}
