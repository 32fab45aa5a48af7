//! What a deployed tree is: its language, runtime, handler and calling convention, found from the files where the deployment
//! does not say. What is said wins, and is checked: the runtime must be on this machine and the handler's file in the tree.
//!
//! The order, when nothing is said: a root `index.js`, `.mjs` or `.cjs`; then `lambda_function.py`; then `main` of
//! `package.json`; then the other names of `NODE_FILES`, then of `PYTHON_FILES`. It reads file names and `package.json`, never
//! runs or parses code, and sets nothing but these four values.

use offshoot_model::{Convention, Error, ErrorKind, Language, RuntimeName};

use super::tree::Tree;
use crate::runtime::RuntimeTable;

const NODE_EXTENSIONS: &[&str] = &["js", "mjs", "cjs"];
/// Root files that may hold a Node.js handler, first wins.
const NODE_FILES: &[&str] = &["index", "app", "main", "handler", "lambda"];
/// Root files that may hold a Python handler, first wins.
const PYTHON_FILES: &[&str] = &["lambda_function", "index", "main", "app", "handler", "function"];
/// AWS's default for Python, and the one handler that is called by AWS's convention unless told otherwise.
const AWS_PYTHON: &str = "lambda_function.lambda_handler";

/// Nobody writes a longer one by hand.
const MAX_PACKAGE_JSON: u64 = 1 << 20;

/// What the deployment says.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Said<'a> {
    pub runtime: Option<RuntimeName>,
    pub handler: Option<&'a str>,
    pub convention: Option<Convention>,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub runtime: RuntimeName,
    pub handler: String,
    pub convention: Convention,
}

/// File names that may hold a handler, as they stand in the root of a tree.
pub(super) fn candidate_files() -> impl Iterator<Item = String> {
    let node = NODE_FILES.iter().flat_map(|stem| NODE_EXTENSIONS.iter().map(move |ext| format!("{stem}.{ext}")));
    node.chain(PYTHON_FILES.iter().map(|stem| format!("{stem}.py")))
}

/// Finds what is not said and checks what is. `stripped` is the folder that was left out when the archive was unpacked: a
/// handler that is given with it still works.
pub(super) fn detect(tree: &Tree, stripped: Option<&str>, said: Said, table: &RuntimeTable) -> Result<Found, Error> {
    let language = said.runtime.map(|r| r.language);
    let (language, handler) = match said.handler {
        Some(handler) => given(tree, stripped, handler, language)?,
        None => search(tree, language)?,
    };
    let runtime = match said.runtime {
        Some(name) => table.resolve(name)?.asked,
        None => table.newest(language).ok_or_else(|| table.none_of(language))?.name,
    };
    let usual = if handler == AWS_PYTHON { Convention::Event } else { Convention::Request };
    Ok(Found { runtime, handler, convention: said.convention.unwrap_or(usual) })
}

/// Whether the handler's file is in the tree.
pub(super) fn has_handler(tree: &Tree, handler: &str, language: Language) -> bool {
    handler.rsplit_once('.').is_some_and(|(file, _)| files_of(file, language).iter().any(|f| tree.is_file(f)))
}

/// The files that a worker may load for the part of a handler before its last dot.
fn files_of(stem: &str, language: Language) -> Vec<String> {
    match language {
        Language::Node => NODE_EXTENSIONS.iter().map(|ext| format!("{stem}.{ext}")).collect(),
        Language::Python => {
            // A module may be written with dots, as in `import`.
            let module = stem.replace('.', "/");
            vec![format!("{stem}.py"), format!("{module}.py"), format!("{module}/__init__.py")]
        }
    }
}

/// A handler that was given: its language if that was not, and its text without the folder that was left out.
fn given(tree: &Tree, stripped: Option<&str>, handler: &str, language: Option<Language>) -> Result<(Language, String), Error> {
    let inner = stripped.and_then(|folder| handler.strip_prefix(folder)?.strip_prefix('/'));
    let languages = language.as_slice();
    let languages = if languages.is_empty() { Language::ALL } else { languages };
    for text in [Some(handler), inner].into_iter().flatten() {
        if let Some(found) = languages.iter().find(|l| has_handler(tree, text, **l)) {
            return Ok((*found, text.to_owned()));
        }
    }
    let file = handler.rsplit_once('.').map_or(handler, |(file, _)| file);
    let shown: String = handler.chars().take(80).flat_map(char::escape_debug).collect();
    if tree.is_file(&format!("{file}.ts")) {
        return Err(Error::new(ErrorKind::InvalidInput, format!("the handler '{shown}' is in TypeScript: compile it and deploy the JavaScript")));
    }
    let wanted: Vec<String> = languages.iter().flat_map(|l| files_of(file, *l)).fold(Vec::new(), |mut list, f| {
        if !list.contains(&f) {
            list.push(f);
        }
        list
    });
    let shown_files: String = wanted.join(", ").chars().take(200).flat_map(char::escape_debug).collect();
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!(
            "the handler '{shown}' needs a file that is not in the archive (looked for {shown_files}); {}; \
             name the handler as file.export, with the file's path from the root",
            at_the_root(tree)
        ),
    ))
}

/// The handler that the files suggest.
fn search(tree: &Tree, language: Option<Language>) -> Result<(Language, String), Error> {
    let node = language != Some(Language::Python);
    let python = language != Some(Language::Node);
    let plain = |stem: &str, wanted: Language| {
        let export = if stem == "lambda_function" { "lambda_handler" } else { "handler" };
        files_of(stem, wanted).iter().any(|f| tree.is_file(f)).then(|| (wanted, format!("{stem}.{export}")))
    };
    let nodes = || NODE_FILES.iter().find_map(|stem| plain(stem, Language::Node));
    let pythons = || PYTHON_FILES.iter().find_map(|stem| plain(stem, Language::Python));
    None.or_else(|| plain("index", Language::Node).filter(|_| node))
        .or_else(|| plain("lambda_function", Language::Python).filter(|_| python))
        .or_else(|| package_main(tree).filter(|_| node).map(|handler| (Language::Node, handler)))
        .or_else(|| nodes().filter(|_| node))
        .or_else(|| pythons().filter(|_| python))
        .ok_or_else(|| {
            let advice = match language {
                Some(Language::Node) => "add index.js with exports.handler",
                Some(Language::Python) => "add lambda_function.py with def lambda_handler(event, context)",
                None => "add index.js with exports.handler, or lambda_function.py with def lambda_handler(event, context)",
            };
            let message = format!("no handler was found: {}; {advice}, or name the handler as file.export", at_the_root(tree));
            Error::new(ErrorKind::InvalidInput, message)
        })
}

/// `main` of `package.json` as a handler, if it names a file of the tree in plain characters.
fn package_main(tree: &Tree) -> Option<String> {
    let text = tree.read_text("package.json", MAX_PACKAGE_JSON)?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    let main = json.get("main")?.as_str()?;
    let main = main.trim_start_matches("./").trim_end_matches('/');
    let stem = NODE_EXTENSIONS.iter().find_map(|ext| main.strip_suffix(ext)?.strip_suffix('.')).unwrap_or(main);
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b)) && !s.starts_with('/');
    let found = [stem.to_owned(), format!("{stem}/index")];
    let found = found.into_iter().find(|s| plain(s) && files_of(s, Language::Node).iter().any(|f| tree.is_file(f)))?;
    Some(format!("{found}.handler"))
}

/// What is in the root, for a person who wonders what was zipped.
fn at_the_root(tree: &Tree) -> String {
    let mut names = tree.names("").unwrap_or_default();
    names.sort();
    let more = names.len().saturating_sub(10);
    let shown: Vec<String> = names.iter().take(10).map(|n| n.chars().take(40).flat_map(char::escape_debug).collect()).collect();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("at its root are {}{rest}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Installed;

    fn table(names: &[&str]) -> std::sync::Arc<RuntimeTable> {
        let entry = |n: &&str| Installed { name: RuntimeName::parse(n).unwrap(), version: "1.2.3".into(), executable: "/usr/bin/true".into(), prefix: None };
        RuntimeTable::of(names.iter().map(entry).collect(), false)
    }

    fn found(files: &[(&str, &str)], said: Said) -> Result<Found, Error> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        detect(&Tree::open(dir.path()).unwrap(), Some("folder"), said, &table(&["nodejs20.x", "nodejs22.x", "python3.11"]))
    }

    fn handler_of(files: &[&str]) -> (String, String) {
        let files: Vec<_> = files.iter().map(|f| (*f, "")).collect();
        let found = found(&files, Said::default()).unwrap();
        (found.runtime.to_string(), found.handler)
    }

    #[test]
    fn handlers_are_found_from_root_files() {
        let cases: &[(&[&str], &str, &str)] = &[
            (&["index.js"], "nodejs22.x", "index.handler"),
            (&["index.mjs", "x.txt"], "nodejs22.x", "index.handler"),
            (&["index.cjs"], "nodejs22.x", "index.handler"),
            (&["app.js"], "nodejs22.x", "app.handler"),
            (&["lambda.mjs", "main.cjs"], "nodejs22.x", "main.handler"),
            (&["lambda_function.py"], "python3.11", "lambda_function.lambda_handler"),
            (&["main.py", "util.py"], "python3.11", "main.handler"),
            (&["function.py"], "python3.11", "function.handler"),
            (&["index.js", "lambda_function.py"], "nodejs22.x", "index.handler"),
            (&["app.js", "lambda_function.py"], "python3.11", "lambda_function.lambda_handler"),
            (&["app.js", "app.py"], "nodejs22.x", "app.handler"),
        ];
        for (files, runtime, handler) in cases {
            assert_eq!(handler_of(files), ((*runtime).to_owned(), (*handler).to_owned()), "{files:?}");
        }
    }

    #[test]
    fn package_json_names_the_file() {
        for (main, file, handler) in
            [("./src/a.js", "src/a.js", "src/a.handler"), ("lib", "lib/index.js", "lib/index.handler"), ("b", "b.mjs", "b.handler")]
        {
            let json = format!("{{\"main\": \"{main}\"}}");
            assert_eq!(found(&[("package.json", &json), (file, "")], Said::default()).unwrap().handler, handler);
        }
        for main in ["../x.js", "/etc/x.js", "none.js", "$(x).js"] {
            let json = format!("{{\"main\": \"{main}\"}}");
            let error = found(&[("package.json", &json), ("x.js", "")], Said::default()).unwrap_err();
            assert!(error.message.contains("no handler was found: at its root are package.json, x.js"), "{error}");
        }
    }

    #[test]
    fn what_is_said_wins_and_is_checked() {
        let python = Said { runtime: Some(RuntimeName::parse("python3.11").unwrap()), ..Said::default() };
        let both = [("index.js", ""), ("app.py", ""), ("src/deep.py", ""), ("pkg/__init__.py", ""), ("t.ts", "")];
        assert_eq!(found(&both, python).unwrap().handler, "app.handler");
        for (given, kept) in [("src/deep.run", "src/deep.run"), ("src.deep.run", "src.deep.run"), ("pkg.run", "pkg.run"), ("folder/app.x", "app.x")] {
            let f = found(&both, Said { handler: Some(given), ..Said::default() }).unwrap();
            assert_eq!((f.handler.as_str(), f.runtime.language), (kept, Language::Python));
        }
        let error = found(&both, Said { handler: Some("nope.handler"), ..Said::default() }).unwrap_err();
        assert!(error.message.contains("'nope.handler'") && error.message.contains("nope.js") && error.message.contains("index.js"), "{error}");
        let error = found(&both, Said { handler: Some("t.handler"), ..Said::default() }).unwrap_err();
        assert!(error.message.contains("TypeScript"), "{error}");
        let error = found(&both, Said { handler: Some("../../etc/passwd.x"), ..Said::default() }).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidInput);
    }

    #[test]
    fn the_convention_follows_the_handler() {
        let of = |file: &str, said| found(&[(file, "")], said).unwrap().convention;
        assert_eq!(of("index.js", Said::default()), Convention::Request);
        assert_eq!(of("main.py", Said::default()), Convention::Request);
        assert_eq!(of("lambda_function.py", Said::default()), Convention::Event);
        assert_eq!(of("index.js", Said { convention: Some(Convention::Event), ..Said::default() }), Convention::Event);
        assert_eq!(of("lambda_function.py", Said { convention: Some(Convention::Request), ..Said::default() }), Convention::Request);
    }

    #[test]
    fn a_missing_runtime_says_how_to_get_it_and_what_is_here() {
        let said = Said { runtime: Some(RuntimeName::parse("python3.13").unwrap()), ..Said::default() };
        let error = found(&[("app.py", "")], said).unwrap_err();
        assert_eq!(error.kind, ErrorKind::RuntimeMissing);
        for part in ["python3.13", "install", "python3.11", "nodejs20.x"] {
            assert!(error.message.contains(part), "{error}");
        }
    }
}
