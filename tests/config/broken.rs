//! Every diagnostic has an example in `configs/broken`, and what it says is written beside it.
//!
//! `EASTGATE_BLESS=1` writes what is said now.

use std::{collections::BTreeSet, env, fs, path::Path};

use eastgate_config::{Diagnostics, Loader, Problem, Severity};

use crate::{folder, toml_files};

/// What a configuration says: its errors, or its warnings if it is good.
fn diagnose(path: &Path) -> Diagnostics {
    let mut loader = Loader::new(path);
    match loader.load() {
        Ok(_) => loader.warnings().clone(),
        Err(diagnostics) => diagnostics,
    }
}

/// As a reader at the top of the repository sees it.
fn shown(diagnostics: &Diagnostics) -> String {
    let top = format!("{}/", env!("CARGO_MANIFEST_DIR"));
    diagnostics.render(false).replace(&top, "")
}

#[test]
fn broken_files_say_exactly_this() {
    let bless = env::var_os("EASTGATE_BLESS").is_some();
    let mut wrong = Vec::new();
    for path in toml_files(&folder("configs/broken")) {
        let said = shown(&diagnose(&path));
        let expected = path.with_extension("stderr");
        if bless {
            fs::write(&expected, &said).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != said {
            wrong.push(format!("{}\n{said}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "EASTGATE_BLESS=1 writes them anew\n{}", wrong.join("\n"));
}

#[test]
fn every_diagnostic_has_an_example_named_after_it() {
    for code in Problem::CODES {
        let path = folder("configs/broken").join(format!("{code}.toml"));
        assert!(path.exists(), "no configs/broken/{code}.toml");
        let codes: BTreeSet<&str> = diagnose(&path).iter().map(|found| found.problem.code()).collect();
        assert!(codes.contains(code), "{code}.toml says {codes:?}");
    }
}

#[test]
fn an_example_shows_its_own_problem_only() {
    let mut wrong = Vec::new();
    for code in Problem::CODES {
        let found = diagnose(&folder("configs/broken").join(format!("{code}.toml")));
        if found.iter().any(|found| found.problem.code() != *code) {
            wrong.push(found.render(false));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_expectation_is_left_without_its_example() {
    for entry in fs::read_dir(folder("configs/broken")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "stderr") {
            assert!(path.with_extension("toml").exists(), "{}", path.display());
        }
    }
}

#[test]
fn diagnostics_are_sorted_and_have_remedies() {
    let found = diagnose(&folder("configs/broken/all-at-once.toml"));
    let lines: Vec<(u32, u32)> = found.iter().map(|found| (found.at.line(), found.at.column())).collect();
    assert!(lines.is_sorted(), "{lines:?}");
    assert!(found.iter().all(|found| !found.problem.remedy().is_empty()));
    assert!(found.count(Severity::Error) >= 14, "{}", found.render(false));
}

#[test]
fn as_json_they_say_the_same() {
    let found = diagnose(&folder("configs/broken/vni-twice.toml"));
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 1);
    let first = &json[0];
    assert!(first["file"].as_str().unwrap().ends_with("vni-twice.toml"));
    assert_eq!((&first["line"], &first["column"]), (&23.into(), &7.into()));
    assert_eq!((&first["severity"], &first["code"]), (&"error".into(), &"vni-twice".into()));
    assert_eq!(first["message"], "VNI 5001 belongs to network `app` of tenant `acme` already");
    assert_eq!(first["remedy"], "give each network a VNI of its own");
    assert_eq!(first["also"]["line"], 8);
}

#[test]
fn colour_is_for_terminals_only() {
    let found = diagnose(&folder("configs/broken/vni-twice.toml"));
    assert!(!found.render(false).contains('\u{1b}'));
    assert!(found.render(true).contains("\u{1b}["));
}
