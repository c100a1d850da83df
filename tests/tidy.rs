//! The architecture as absences: what `crates/ARCHITECTURE.md` says is not there, is not there. One test per sentence,
//! each names file and line.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Every file below `dir` with one of `extensions`, build products left out.
fn files(dir: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with("target") && name != ".git" {
                found.extend(files(&path, extensions));
            }
        } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// `path:line: text` of every line of Rust below `dir` for which `bad` holds, comments left out.
fn lines_with(dir: &str, bad: impl Fn(&str) -> bool) -> Vec<String> {
    let root = root();
    let mut found = Vec::new();
    for path in files(&root.join(dir), &["rs"]) {
        let shown = path.strip_prefix(&root).unwrap().display().to_string();
        if shown == "tests/tidy.rs" {
            continue;
        }
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap();
            if bad(code) {
                found.push(format!("{shown}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// Whether `code` contains `word` as a whole word.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let inside = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        !code[..at].ends_with(inside) && !code[at + word.len()..].starts_with(inside)
    })
}

#[test]
fn the_top_level_is_fixed() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "proto",
        "crates",
        "deploy",
        "tests",
        "benches",
        "README.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "target",
    ];
    let found: Vec<String> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| {
            !name.starts_with('.') && !name.starts_with("target") && !allowed.contains(&name.as_str())
        })
        .collect();
    assert_none("the top level holds only what crates/ARCHITECTURE.md lists", &found);
}

#[test]
fn the_pure_crates_are_pure() {
    for dir in ["crates/state/src", "crates/ha/src"] {
        let words =
            ["async", "await", "HashMap", "HashSet", "tokio", "SystemTime", "rand", "fastrand", "thread"];
        let found = lines_with(dir, |code| {
            words.iter().any(|word| names(code, word))
                || ["Instant::now", "std::fs", "std::net", "std::env", "std::io"]
                    .iter()
                    .any(|p| code.contains(p))
        });
        assert_none("time, randomness and I/O are inputs of a pure crate", &found);
    }
    for manifest in ["crates/state/Cargo.toml", "crates/ha/Cargo.toml"] {
        let text = fs::read_to_string(root().join(manifest)).unwrap();
        let normal = text.split("[dev-dependencies]").next().unwrap();
        assert!(
            !normal.contains("\nquorate-"),
            "{manifest}: a pure crate depends on no other crate of the workspace"
        );
    }
}

#[test]
fn libraries_stay_behind_their_crate() {
    let rules: [(&str, &[&str]); 3] = [
        ("openraft", &["crates/consensus/"]),
        ("sled", &["crates/storage/"]),
        (
            "tonic",
            &[
                "crates/etcd/",
                "crates/consensus/",
                "crates/wire/",
                "crates/quorate/src/ctl",
                "crates/quorate/src/bin",
                "benches/",
                "crates/quorate/tests/",
                "tests/robustness/",
            ],
        ),
    ];
    for (library, homes) in rules {
        let found: Vec<String> = ["crates", "tests", "benches"]
            .iter()
            .flat_map(|dir| lines_with(dir, |code| code.contains(&format!("{library}::"))))
            .filter(|line| !homes.iter().any(|home| line.starts_with(home)))
            .collect();
        assert_none(&format!("{library} is named outside {homes:?}"), &found);
    }
}

#[test]
fn nothing_is_left_undone() {
    // In two parts: a search of the sources for it does not find the searcher.
    const IGNORED: &str = concat!("#[", "ignore");
    let unfinished = ["todo!(", "unimplemented!(", "dbg!("];
    let found = lines_with("crates", |code| unfinished.iter().any(|word| code.contains(word)));
    assert_none("unfinished", &found);
    for dir in ["crates", "tests", "benches"] {
        let found = lines_with(dir, |code| code.contains(IGNORED));
        assert_none("ignored tests prove nothing", &found);
    }
}

#[test]
fn every_module_opens_with_its_essay() {
    let root = root();
    let found: Vec<String> = files(&root.join("crates"), &["rs"])
        .into_iter()
        .filter(|path| path.components().any(|part| part.as_os_str() == "src"))
        .filter(|path| path.file_name().is_some_and(|name| name != "tests.rs"))
        .filter(|path| !fs::read_to_string(path).unwrap().trim_start().starts_with("//!"))
        .map(|path| path.strip_prefix(&root).unwrap().display().to_string())
        .collect();
    assert_none("a module says what it is for in its first line", &found);
}

#[test]
fn unsafe_code_says_why_it_is_safe() {
    let root = root();
    let mut found = Vec::new();
    for path in files(&root.join("crates"), &["rs"]) {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            let opens =
                code.contains("unsafe {") || code.contains("unsafe impl") || code.contains("unsafe fn");
            let explained = lines[number.saturating_sub(6)..=number].iter().any(|l| l.contains("SAFETY"));
            if opens && !explained {
                found.push(format!("{}:{}", path.strip_prefix(&root).unwrap().display(), number + 1));
            }
        }
    }
    assert_none("unsafe without a SAFETY comment", &found);
}

#[test]
fn the_code_map_names_every_crate_and_dependency() {
    let map = fs::read_to_string(root().join("crates/ARCHITECTURE.md")).unwrap();
    let mut missing: Vec<String> = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !map.contains(&format!("`{name}`")))
        .collect();
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let dependencies =
        manifest.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    for line in dependencies.lines().filter(|line| !line.starts_with('#') && line.contains('=')) {
        let name = line.split('=').next().unwrap().trim();
        if !name.starts_with("quorate-") && !map.contains(&format!("`{name}`")) {
            missing.push(format!("dependency {name}"));
        }
    }
    assert_none("crates/ARCHITECTURE.md does not mention", &missing);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = root();
    let mut broken = Vec::new();
    for path in files(&root, &["md"]) {
        let text = fs::read_to_string(&path).unwrap();
        for part in text.split("](").skip(1) {
            let target = part.split(')').next().unwrap().split('#').next().unwrap();
            if target.is_empty() || target.contains("://") || target.contains(' ') {
                continue;
            }
            if !path.parent().unwrap().join(target).exists() {
                broken.push(format!("{}: {target}", path.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert_none("broken links", &broken);
}
