use serde_json::json;

/// Prints rows as they come: a table, or one JSON object a line.
pub struct Report {
    json: bool,
    header: bool,
}

/// What a value is compared with, measured in the same run, and how many times larger the value is.
pub struct Baseline {
    pub name: &'static str,
    pub ratio: f64,
}

impl Report {
    pub fn new(json: bool) -> Self {
        Self { json, header: false }
    }

    pub fn row(&mut self, bench: &str, case: &str, value: f64, unit: &str, baseline: Option<Baseline>) {
        if self.json {
            let (name, ratio) = baseline.map_or((None, None), |b| (Some(b.name), Some(b.ratio)));
            println!(
                "{}",
                json!({ "bench": bench, "case": case, "value": value, "unit": unit, "baseline": name, "ratio": ratio })
            );
            return;
        }
        if !self.header {
            println!("{:<9} {:<52} {:>14} {:<14} ratio to baseline", "bench", "case", "value", "unit");
            self.header = true;
        }
        let against = baseline.map_or_else(String::new, |b| format!("{:.2} x {}", b.ratio, b.name));
        println!("{bench:<9} {case:<52} {:>14} {unit:<14} {against}", grouped(value));
    }
}

/// Thousands separated; two decimals below a hundred, four for shares and small figures.
fn grouped(value: f64) -> String {
    if value < 1.5 {
        return format!("{value:.4}");
    }
    if value < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The value below which this share of the samples lies.
pub fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let index = ((samples.len() as f64 - 1.0) * share).round() as usize;
    samples.get(index).copied().unwrap_or(f64::NAN)
}
