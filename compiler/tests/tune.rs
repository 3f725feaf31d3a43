//! The tuner: kernels measured in a process of their own, what a bad one costs, decisions that are made again from a log,
//! a search that is killed and goes on, and results that keep their bits.

#![allow(clippy::unwrap_used)]

use aic::driver::{self, Options, Source};
use aic::tune::records::{Record, Records, State};
use aic::tune::{Job, Machine, Meter};
use aic_backends::CpuOptions;
use aic_ir::compose::compose;
use aic_ir::compute::Compute;
use aic_ir::op::Rng;
use aic_ir::schedule::Schedule;
use aic_ir::target::Target;
use aic_ir::text::{parse_graph, parse_kernel};
use aic_passes::runner::Numerics;
use aic_passes::schedule::key;
use aic_passes::schedule::space::Space;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn digits() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/models/digits/digits.onnx").display().to_string()
}

/// What `aic` prints, to standard output and error, in a folder that is its cache too.
fn aic(folder: &Path, args: &[&str]) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aic"));
    let output = command.args(args).current_dir(folder).env("XDG_CACHE_HOME", folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{args:?}: {err}");
    (out, err)
}

fn matmul() -> Compute {
    let text = "graph(%0: f32[24,64], %1: f32[64,80]) -> f32[24,80] { %2 = matmul %0 %1 return %2 }";
    Compute { constants: BTreeSet::from([1]), ..compose(&parse_graph(text).unwrap()).unwrap() }
}

fn meter() -> Meter {
    let args = ["tune-worker", "--threads", "2"].map(Into::into).to_vec();
    Meter::new(PathBuf::from(env!("CARGO_BIN_EXE_aic")), args, Duration::from_secs(3))
}

#[test]
fn a_job_reads_back() {
    let space = Space::new(&matmul(), &Target::x86_avx2()).unwrap();
    let made = vec![space.kernel("k0", space.first()).unwrap()];
    assert!(!made[0].packings.is_empty());
    let job = Job::new(&matmul(), made, 3).unwrap();
    assert_eq!(Job::parse(&job.json().to_string()), Ok(job));
    assert!(Job::parse("{").is_err() && Job::parse("{\"inputs\": [[1]]}").is_err());
}

/// A kernel with wrong results, one that never ends and one that crashes cost nothing but themselves.
#[test]
fn bad_kernels_fail_alone() {
    let c = matmul();
    let space = Space::new(&c, &driver::target(&CpuOptions::default()).unwrap()).unwrap();
    let other = space.knobs().iter().find_map(|k| {
        k.values.iter().find_map(|v| space.turned(space.first(), k, *v).filter(|s| s != space.first()))
    });
    let made = [space.first(), &other.unwrap()].map(|s| space.kernel("k", s).unwrap());
    let mut job = Job::new(&c, made.to_vec(), 3).unwrap();
    let bad = |body: &str| {
        let text =
            format!("kernel @bad(in x0: f32[1536], in x1: f32[5120], out y: f32[1920]) {{\n{body}\n}}");
        (parse_kernel(&text).unwrap(), Vec::new())
    };
    job.kernels.push(bad("  for i in 0..1920 { y[i] = f32(1.0) }"));
    job.kernels.push(bad("  while bool(true) { y[0] = f32(1.0) }"));
    job.kernels.push(bad("  for i in 0..1920 { y[i*1099511627776] = f32(1.0) }"));
    let outcomes = meter().measure(&job).unwrap();
    let [seconds, ratio, wins] = outcomes[1].clone().unwrap();
    assert!(seconds >= 0.0 && ratio > 0.0 && (0.0..=1.0).contains(&wins), "{seconds} {ratio} {wins}");
    assert_eq!(outcomes[2], Err("its results differ".into()));
    assert_eq!(outcomes[3], Err("it takes too long".into()));
    assert_eq!(outcomes[4], Err("it ends the process".into()));
}

/// Whatever the records say, the bits of the results are the same; what isn't legal is left out.
#[test]
fn tuned_models_keep_their_bits() {
    let source = Source::load(Path::new(&digits())).unwrap();
    let import = || source.import(&dims()).unwrap().graph;
    let cpu = CpuOptions::default();
    let (target, machine) = (driver::target(&cpu).unwrap(), Machine::this(&cpu, 2).unwrap());
    let computes = [Numerics::Exact, Numerics::Reassociate].map(|numerics| {
        driver::lower(import(), &Options { numerics, ..Options::default() }).unwrap().computes
    });
    let folder = tempfile::tempdir().unwrap();
    let mut records = Records::default();
    let mut rng = Rng::new(4);
    for c in computes.iter().flatten().flatten() {
        let Some(space) = Space::new(c, &target) else { continue };
        let mut s = space.first().clone();
        for _ in 0..20 {
            let Some(knob) = (!space.knobs().is_empty()).then(|| rng.pick(space.knobs())) else { break };
            s = space.turned(&s, &knob, rng.pick(&knob.values)).unwrap_or(s);
        }
        records.0.push(kept(key(c), &machine, s));
    }
    assert!(records.0.len() > 2);
    let other = Machine { cpu: "another".into(), ..machine.clone() };
    records.0.push(kept(1, &machine, "map lanes=3 mr=0 nr=7 kc=1".parse().unwrap()));
    records.0.push(kept(records.0[0].kernel, &other, "map lanes=3 mr=0 nr=7 kc=1".parse().unwrap()));
    let file = folder.path().join("r.jsonl").display().to_string();
    records.write(Path::new(&file)).unwrap();
    for numerics in ["exact", "reassociate"] {
        let run = |more: &[&str], to: &str| {
            let common = ["run", &digits(), "--dim", "batch=3", "--threads", "2", "--numerics", numerics];
            let (_, err) = aic(folder.path(), &[&common[..], &["--outputs", to], more].concat());
            let results = fs::read_dir(folder.path().join(to)).unwrap().map(|f| f.unwrap().path());
            (results.map(|f| fs::read(f).unwrap()).collect::<Vec<_>>(), err)
        };
        let (plain, err) = run(&["--no-records"], "plain");
        assert!(!err.contains("tuned"), "{err}");
        let (tuned, err) = run(&["--records", &file], "tuned");
        assert!(err.contains("kernels are tuned"), "{err}");
        assert!(!plain.is_empty() && plain == tuned);
    }
}

/// The schedule that is chosen comes first, beside others with what bounds them.
#[test]
fn the_model_of_costs_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let why = |more: &[&str]| {
        let model = digits();
        let common = ["kernels", &model, "--dim", "batch=3", "--why"];
        aic(folder.path(), &[&common[..], more].concat()).0
    };
    let all = why(&[]);
    assert!(all.contains("intensity") && all.contains("bound") && all.contains("contract lanes="), "{all}");
    let one = why(&["fused_1"]);
    assert!(one.len() < all.len() && one.contains("fused_1"), "{one}");
    assert!(why(&["--target", "sm_80"]).contains("there is no choice"));
}

fn dims() -> aic::import::onnx::ImportOptions {
    let dims = [("batch".to_owned(), 3)].into_iter().collect();
    aic::import::onnx::ImportOptions { dims, ..Default::default() }
}

fn kept(kernel: u64, machine: &Machine, schedule: Schedule) -> Record {
    let (machine, nodes) = (machine.clone(), String::new());
    Record { kernel, machine, schedule, state: State::Kept, ratio: 0.9, nodes }
}

/// Equal seeds decide equally on equal measurements; records give the same kernels again; a killed search goes on.
#[test]
fn searches_repeat_and_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = digits();
    let tune = |more: &[&str]| {
        let common = ["tune", &model, "--dim", "batch=3", "--threads", "1", "--seed", "5"];
        aic(folder, &[&common[..], more].concat()).0
    };
    let search = ["--budget", "4s", "--records", "a.jsonl", "--log", "log.jsonl", "--report", "page.html"];
    let first = tune(&search);
    let again = tune(&["--budget", "4s", "--records", "b.jsonl", "--replay", "log.jsonl"]);
    assert_eq!(first, again);
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    assert_eq!(read("a.jsonl"), read("b.jsonl"));
    assert!(!read("a.jsonl").is_empty());
    let page = String::from_utf8(read("page.html")).unwrap();
    assert!(page.contains("<svg") && !page.contains("http"), "{page}");

    let kernels = || {
        let common = ["compile", &model, "--dim", "batch=3", "--emit", "kernels", "--records", "a.jsonl"];
        aic(folder, &common).0
    };
    assert_eq!(kernels(), kernels());

    let mut killed = Command::new(env!("CARGO_BIN_EXE_aic"))
        .args([
            "tune",
            &model,
            "--dim",
            "batch=3",
            "--threads",
            "1",
            "--budget",
            "60s",
            "--records",
            "c.jsonl",
        ])
        .current_dir(folder)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let n_records = || Records::read(&folder.join("c.jsonl")).map_or(0, |r| r.0.len());
    let start = Instant::now();
    while n_records() < 9 && start.elapsed() < Duration::from_secs(50) {
        std::thread::sleep(Duration::from_millis(20));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let before = Records::read(&folder.join("c.jsonl")).unwrap();
    assert!(before.0.len() >= 9);
    tune(&["--budget", "3s", "--records", "c.jsonl"]);
    let after = Records::read(&folder.join("c.jsonl")).unwrap();
    assert_eq!(after.0[..before.0.len()], before.0);
    let measured: Vec<(u64, &Schedule)> = after
        .0
        .iter()
        .filter(|r| matches!(r.state, State::Tried | State::Failed))
        .map(|r| (r.kernel, &r.schedule))
        .collect();
    let distinct: std::collections::HashSet<_> = measured.iter().collect();
    assert_eq!(distinct.len(), measured.len(), "nothing is measured twice");

    aic(folder, &["tune", "--export", "d.jsonl", "--records", "c.jsonl"]);
    aic(folder, &["tune", "--import", "d.jsonl"]);
    let taken = Records::read(&folder.join("aic/tuned.jsonl")).unwrap();
    assert_eq!(taken, after.pruned());
}
