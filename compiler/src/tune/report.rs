//! The search as a page of HTML that needs nothing else: for each kernel the best time after each trial, and measured
//! against predicted times.

use super::Task;
use std::fmt::Write;

/// Width and height of a drawing.
const SIZE: (f64, f64) = (420.0, 180.0);
/// Times are drawn from this part of the first schedule's to that.
const RANGE: (f64, f64) = (0.5, 2.0);

/// The page.
pub fn page(model: &str, summary: &str, tasks: &[Task]) -> String {
    let mut out = format!(
        "<!doctype html><meta charset=utf-8><title>aic tune</title><style>body{{font:14px sans-serif;margin:2em}}\
         svg{{border:1px solid #ccc;margin-right:1em}}code{{font-size:12px}}</style><h1>{}</h1><p>{}</p>\
         <p>Left: the best time after each trial (line) and each trial's (dots), as a part of that of the schedule that \
         the model of costs chooses. Right: measured (up) against predicted (right), the same way. Dashed: no change.</p>\n",
        escaped(model),
        escaped(summary)
    );
    for task in tasks.iter().filter(|t| !t.tried.is_empty()) {
        let _ = writeln!(
            out,
            "<h2>{} <small>{:.3} ms a run, best {:.3}</small></h2><p><code>{}</code><br><code>{}</code></p>{}{}",
            escaped(&task.nodes),
            task.seconds * 1e3,
            task.ratio,
            escaped(&task.space.first().to_string()),
            escaped(&task.best.to_string()),
            trials(task),
            predictions(task)
        );
    }
    out
}

/// Where a ratio is drawn, on an axis of this length.
fn place(ratio: f64, length: f64) -> f64 {
    let (least, most) = (RANGE.0.ln(), RANGE.1.ln());
    let part = (ratio.clamp(RANGE.0, RANGE.1).ln() - least) / (most - least);
    part * length
}

fn dot(x: f64, y: f64) -> String {
    format!("<circle cx='{x:.1}' cy='{:.1}' r='2.5' fill='#4878a8' fill-opacity='.6'/>", SIZE.1 - y)
}

fn drawing(marks: &str) -> String {
    let (w, h) = SIZE;
    let one = h - place(1.0, h);
    format!(
        "<svg width='{w}' height='{h}'><line x1='0' x2='{w}' y1='{one:.1}' y2='{one:.1}' stroke='#999' \
         stroke-dasharray='4'/>{marks}</svg>"
    )
}

fn trials(task: &Task) -> String {
    let step = SIZE.0 / task.tried.len() as f64;
    let (mut marks, mut line, mut best) = (String::new(), String::new(), 1.0f64);
    for (k, (_, ratio)) in task.tried.iter().enumerate() {
        let x = (k as f64 + 0.5) * step;
        best = best.min(*ratio);
        let _ = write!(line, "{x:.1},{:.1} ", SIZE.1 - place(best, SIZE.1));
        if ratio.is_finite() {
            marks += &dot(x, place(*ratio, SIZE.1));
        }
    }
    drawing(&format!("{marks}<polyline points='{line}' fill='none' stroke='#c44' stroke-width='1.5'/>"))
}

fn predictions(task: &Task) -> String {
    let first = task.space.predict(task.space.first()).seconds.max(1e-12);
    let mark = |(s, ratio): &(aic_ir::schedule::Schedule, f64)| {
        dot(place(task.space.predict(s).seconds / first, SIZE.0), place(*ratio, SIZE.1))
    };
    drawing(&task.tried.iter().filter(|(_, r)| r.is_finite()).map(mark).collect::<String>())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
