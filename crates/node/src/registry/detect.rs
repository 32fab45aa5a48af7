//! What a deployed tree is: its language, runtime, handler and calling convention, found from the files where the deployment
//! does not say. What is said wins, and is checked: the runtime must be on this machine and the handler's file in the tree.
//!
//! The order, when nothing is said: a `bootstrap` in the root, which makes it a custom runtime; then a root `index.js`, `.mjs` or `.cjs`; then `lambda_function.py`; then `main` of
//! `package.json`; then the other names of `NODE_FILES`, then of `PYTHON_FILES`, then of `RUBY_FILES`. It reads file names and `package.json`, never
//! runs or parses code, and sets nothing but these four values.

use offshoot_model::{Convention, Error, ErrorKind, Language, RuntimeName};

use super::tree::Tree;
use crate::runtime::{Installed, RuntimeTable};

const NODE_EXTENSIONS: &[&str] = &["js", "mjs", "cjs"];
/// Root files that may hold a Node.js handler, first wins.
const NODE_FILES: &[&str] = &["index", "app", "main", "handler", "lambda"];
/// Root files that may hold a Python handler, first wins.
const PYTHON_FILES: &[&str] = &["lambda_function", "index", "main", "app", "handler", "function"];
/// Root files that may hold a Ruby handler, first wins.
const RUBY_FILES: &[&str] = PYTHON_FILES;
/// AWS's default for Python and Ruby, and the one handler that is called by AWS's convention unless told otherwise.
const AWS_DEFAULT: &str = "lambda_function.lambda_handler";

/// The program of a custom runtime, in the root.
const BOOTSTRAP: &str = "bootstrap";

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
    let python = PYTHON_FILES.iter().map(|stem| format!("{stem}.py"));
    node.chain(python).chain(RUBY_FILES.iter().map(|stem| format!("{stem}.rb")))
}

/// Finds what is not said and checks what is. `stripped` is the folder that was left out when the archive was unpacked: a
/// handler that is given with it still works.
pub(super) fn detect(tree: &Tree, stripped: Option<&str>, said: Said, table: &RuntimeTable) -> Result<Found, Error> {
    let language = said.runtime.map(|r| r.language);
    if language.map_or_else(|| only_bootstrap(tree, said.handler), |l| l == Language::Provided) {
        return provided(said);
    }
    if let Some(foreign) = said.runtime.filter(|r| !r.language.can_run()) {
        table.resolve(foreign)?;
    }
    let (language, handler) = match said.handler {
        Some(handler) => given(tree, stripped, handler, language)?,
        None => search(tree, language)?,
    };
    let (runtime, runs) = match said.runtime {
        Some(name) => table.resolve(name).map(|r| (r.asked, r.actual))?,
        None => table.newest(language).map(|i| (i.name, i)).ok_or_else(|| table.none_of(language))?,
    };
    check_typescript(tree, &handler, &runs)?;
    let usual = if handler == AWS_DEFAULT { Convention::Event } else { Convention::Request };
    Ok(Found { runtime, handler, convention: said.convention.unwrap_or(usual) })
}

/// Whether a tree is its own program: it has a bootstrap, and no handler of another language is named.
fn only_bootstrap(tree: &Tree, handler: Option<&str>) -> bool {
    let other = |h: &str| Language::ALL.iter().any(|l| has_handler(tree, h, *l));
    tree.is_file(BOOTSTRAP) && !handler.is_some_and(other)
}

/// A custom runtime: its handler is a text that only its own program reads, and its program may come with a layer.
fn provided(said: Said) -> Result<Found, Error> {
    Ok(Found {
        runtime: said.runtime.unwrap_or(RuntimeName::BOOTSTRAP),
        handler: said.handler.unwrap_or(BOOTSTRAP).to_owned(),
        convention: said.convention.unwrap_or(Convention::Event),
    })
}

/// Whether something that a worker would load for this handler is in the tree.
pub(super) fn has_handler(tree: &Tree, handler: &str, language: Language) -> bool {
    if language == Language::Provided {
        // Its program may come with a layer; but code of another language, and no program, is another function.
        return tree.is_file(BOOTSTRAP) || search(tree, None).is_err();
    }
    if !language.can_run() {
        return false;
    }
    let (dir, leaf) = module_of(handler, language);
    let compiled = || {
        let names = tree.names(dir.trim_end_matches('/')).unwrap_or_default();
        names.iter().any(|n| n.strip_prefix(&leaf).is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".so")))
    };
    let more: &[&str] = match language {
        Language::Node => &["/index.js", "/package.json"],
        Language::Python => &[".pyc", "/__init__.py"],
        Language::Ruby | Language::Provided | Language::Java | Language::Dotnet => &[],
    };
    files_of(handler, language).iter().any(|f| tree.is_file(f))
        || more.iter().any(|end| tree.is_file(&format!("{dir}{leaf}{end}")))
        || (language == Language::Node && typescript(tree, handler).is_some())
        || (language == Language::Python && compiled())
}

/// Where a handler's module lies: its directory, empty or with a slash at its end, and its name. The split is the workers',
/// which is AWS's: for Node.js at the first dot of the last segment, for Python at the last dot of all, the others being `/`, for
/// Ruby at the first dot of all.
fn module_of(handler: &str, language: Language) -> (String, String) {
    let path = match language {
        Language::Node => {
            let base = handler.rfind('/').map_or(0, |slash| slash + 1);
            let end = handler[base..].find('.').map_or(handler.len(), |dot| base + dot);
            handler[..end].to_owned()
        }
        Language::Python => handler.rsplit_once('.').map_or(handler, |(module, _)| module).replace('.', "/"),
        Language::Ruby => handler.split('.').next().unwrap_or(handler).to_owned(),
        Language::Provided | Language::Java | Language::Dotnet => BOOTSTRAP.to_owned(),
    };
    match path.rsplit_once('/') {
        Some((dir, leaf)) => (format!("{dir}/"), leaf.to_owned()),
        None => (String::new(), path),
    }
}

/// The usual files of a handler, as a person would name them.
fn files_of(handler: &str, language: Language) -> Vec<String> {
    let (dir, leaf) = module_of(handler, language);
    match language {
        Language::Node => NODE_EXTENSIONS.iter().map(|ext| format!("{dir}{leaf}.{ext}")).collect(),
        Language::Python => vec![format!("{dir}{leaf}.py")],
        Language::Ruby => vec![format!("{dir}{leaf}.rb")],
        Language::Provided | Language::Java | Language::Dotnet => vec![format!("{dir}{leaf}")],
    }
}

/// The handler's file, if it is TypeScript and there is no JavaScript of that name.
fn typescript(tree: &Tree, handler: &str) -> Option<String> {
    let (dir, leaf) = module_of(handler, Language::Node);
    if files_of(handler, Language::Node).iter().any(|f| tree.is_file(f)) {
        return None;
    }
    ["ts", "mts", "cts"].iter().map(|ext| format!("{dir}{leaf}.{ext}")).find(|f| tree.is_file(f))
}

/// Refuses a TypeScript handler for a Node.js that would not run it. (Types are stripped by default from 22.18 and 23.6.)
fn check_typescript(tree: &Tree, handler: &str, runtime: &Installed) -> Result<(), Error> {
    let Some(file) = typescript(tree, handler).filter(|_| runtime.name.language == Language::Node) else {
        return Ok(());
    };
    let mut numbers = runtime.version.split('.').map(|n| n.parse::<u16>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if major >= 24 || (major == 23 && minor >= 6) || (major == 22 && minor >= 18) {
        return Ok(());
    }
    let message = format!(
        "'{}' is TypeScript, which Node.js {} cannot run: deploy the compiled JavaScript, or choose nodejs24.x",
        file.escape_debug(),
        runtime.version
    );
    Err(Error::new(ErrorKind::InvalidInput, message))
}

/// A handler that was given: its language if that was not, and its text without the folder that was left out.
fn given(
    tree: &Tree,
    stripped: Option<&str>,
    handler: &str,
    language: Option<Language>,
) -> Result<(Language, String), Error> {
    let inner = stripped.and_then(|folder| handler.strip_prefix(folder)?.strip_prefix('/'));
    let languages = language.as_slice();
    let languages = if languages.is_empty() { Language::ALL } else { languages };
    for text in [Some(handler), inner].into_iter().flatten() {
        if let Some(found) = languages.iter().find(|l| has_handler(tree, text, **l)) {
            return Ok((*found, text.to_owned()));
        }
    }
    let files: Vec<String> = languages.iter().flat_map(|l| files_of(handler, *l)).collect();
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!(
            "the handler '{}' needs a file that is not in the archive (looked for {}); {}; \
             name the handler as file.export, with the file's path from the root",
            plain(handler, 80),
            plain(&files.join(", "), 200),
            at_the_root(tree)
        ),
    ))
}

/// The handler that the files suggest.
fn search(tree: &Tree, language: Option<Language>) -> Result<(Language, String), Error> {
    let wants = |l: Language| language.is_none_or(|only| only == l);
    let at = |stem: &str, l: Language| {
        let export = if stem == "lambda_function" { "lambda_handler" } else { "handler" };
        let handler = format!("{stem}.{export}");
        let there = wants(l) && files_of(&handler, l).iter().any(|f| tree.is_file(f));
        there.then_some((l, handler))
    };
    let (node, python, ruby) = (Language::Node, Language::Python, Language::Ruby);
    at("index", node)
        .or_else(|| at("lambda_function", python))
        .or_else(|| at("lambda_function", ruby))
        .or_else(|| package_main(tree).filter(|_| wants(node)).map(|handler| (node, handler)))
        .or_else(|| NODE_FILES.iter().find_map(|stem| at(stem, node)))
        .or_else(|| PYTHON_FILES.iter().find_map(|stem| at(stem, python)))
        .or_else(|| RUBY_FILES.iter().find_map(|stem| at(stem, ruby)))
        .ok_or_else(|| {
            let advice = match language {
                Some(Language::Node) => "add index.js with exports.handler",
                Some(Language::Python) => "add lambda_function.py with def lambda_handler(event, context)",
                Some(Language::Ruby) => "add lambda_function.rb with def lambda_handler(event:, context:)",
                Some(Language::Provided | Language::Java | Language::Dotnet) => "add an executable bootstrap",
                None => {
                    "add index.js with exports.handler, or lambda_function.py with def lambda_handler(event, context)"
                }
            };
            let root = at_the_root(tree);
            let message = format!("no handler was found: {root}; {advice}, or name the handler as file.export");
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
    let allowed = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b)) && !s.starts_with('/');
    let mut handlers = [format!("{stem}.handler"), format!("{stem}/index.handler")].into_iter();
    // A file with a dot in its own name cannot be named by a handler.
    let named = |h: &String| h.rsplit('/').next().is_some_and(|base| base.matches('.').count() == 1);
    handlers.find(|h| allowed(h) && named(h) && files_of(h, Language::Node).iter().any(|f| tree.is_file(f)))
}

/// What is in the root, for a person who wonders what was zipped.
fn at_the_root(tree: &Tree) -> String {
    let mut names = tree.names("").unwrap_or_default();
    names.sort();
    let more = names.len().saturating_sub(10);
    let shown: Vec<String> = names.iter().take(10).map(|n| plain(n, 40)).collect();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("at its root are {}{rest}", shown.join(", "))
}

/// Text for a message: short, and nothing that a terminal obeys.
fn plain(text: &str, most: usize) -> String {
    text.chars().take(most).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(names: &[&str]) -> std::sync::Arc<RuntimeTable> {
        let entry = |n: &&str| Installed {
            name: RuntimeName::parse(n).unwrap(),
            version: format!("{}.1.2", RuntimeName::parse(n).unwrap().major),
            executable: "/usr/bin/true".into(),
            prefix: None,
        };
        RuntimeTable::of(names.iter().map(entry).collect(), false)
    }

    fn found(files: &[(&str, &str)], said: Said) -> Result<Found, Error> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        detect(
            &Tree::open(dir.path()).unwrap(),
            Some("folder"),
            said,
            &table(&["nodejs20.x", "nodejs22.x", "python3.11", "ruby3.1"]),
        )
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
            (&["lambda_function.rb"], "ruby3.1", "lambda_function.lambda_handler"),
            (&["index.rb", "Gemfile"], "ruby3.1", "index.handler"),
            (&["app.py", "app.rb"], "python3.11", "app.handler"),
            (&["app.py", "lambda_function.rb"], "ruby3.1", "lambda_function.lambda_handler"),
        ];
        for (files, runtime, handler) in cases {
            assert_eq!(handler_of(files), ((*runtime).to_owned(), (*handler).to_owned()), "{files:?}");
        }
    }

    #[test]
    fn a_bootstrap_is_a_custom_runtime_unless_something_else_is_said() {
        assert_eq!(handler_of(&["bootstrap"]), ("provided.al2023".to_owned(), "bootstrap".to_owned()));
        assert_eq!(handler_of(&["bootstrap", "index.js"]).0, "provided.al2023");
        let files = [("bootstrap", ""), ("index.js", "")];
        let node = Said { runtime: Some(RuntimeName::parse("nodejs20.x").unwrap()), ..Said::default() };
        assert_eq!(found(&files, node).unwrap().handler, "index.handler");
        assert_eq!(
            found(&files, Said { handler: Some("index.handler"), ..Said::default() }).unwrap().runtime.language,
            Language::Node
        );
        let own = Said { handler: Some("hello.handler"), ..Said::default() };
        assert_eq!(found(&files, own).unwrap().runtime, RuntimeName::BOOTSTRAP);
        let al2 = RuntimeName::parse("provided.al2").unwrap();
        let said = Said { runtime: Some(al2), handler: Some("not::checked"), ..Said::default() };
        let layered = found(&[("readme", "")], said).unwrap();
        assert_eq!((layered.runtime, layered.handler.as_str()), (al2, "not::checked"));
        assert_eq!(layered.convention, Convention::Event);
    }

    #[test]
    fn package_json_names_the_file() {
        for (main, file, handler) in [
            ("./src/a.js", "src/a.js", "src/a.handler"),
            ("lib", "lib/index.js", "lib/index.handler"),
            ("b", "b.mjs", "b.handler"),
        ] {
            let json = format!("{{\"main\": \"{main}\"}}");
            assert_eq!(found(&[("package.json", &json), (file, "")], Said::default()).unwrap().handler, handler);
        }
        for main in ["../x.js", "/etc/x.js", "none.js", "$(x).js", "x.min.js"] {
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
        let python = [
            ("src/deep.run", "src/deep.run"),
            ("src.deep.run", "src.deep.run"),
            ("pkg.run", "pkg.run"),
            ("folder/app.x", "app.x"),
        ];
        for (given, kept) in python {
            let f = found(&both, Said { handler: Some(given), ..Said::default() }).unwrap();
            assert_eq!((f.handler.as_str(), f.runtime.language), (kept, Language::Python));
        }
        let nested = found(&both, Said { handler: Some("index.api.get"), ..Said::default() }).unwrap();
        assert_eq!((nested.handler.as_str(), nested.runtime.language), ("index.api.get", Language::Node));
        for other in [
            ("lib/index.js", "lib.run"),
            ("native.cpython-311-x86_64-linux-gnu.so", "native.run"),
            ("old.pyc", "old.run"),
        ] {
            assert!(found(&[(other.0, "")], Said { handler: Some(other.1), ..Said::default() }).is_ok(), "{other:?}");
        }
        let error = found(&both, Said { handler: Some("nope.handler"), ..Said::default() }).unwrap_err();
        for part in ["'nope.handler'", "nope.js", "nope.py", "index.js"] {
            assert!(error.message.contains(part), "{error}");
        }
        let error = found(&both, Said { handler: Some("t.handler"), ..Said::default() }).unwrap_err();
        assert!(error.message.contains("TypeScript, which Node.js 22.1.2 cannot run"), "{error}");
        let error = found(&both, Said { handler: Some("../../etc/passwd.x"), ..Said::default() }).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidInput);
    }

    #[test]
    fn ruby_handlers_name_methods_of_files_and_of_modules() {
        let files = [("src/app.rb", ""), ("index.rb", "")];
        for given in ["src/app.run", "src/app.Shop::Orders.process", "index.Api.call"] {
            let f = found(&files, Said { handler: Some(given), ..Said::default() }).unwrap();
            assert_eq!((f.handler.as_str(), f.runtime.language), (given, Language::Ruby));
        }
        assert!(found(&files, Said { handler: Some("src/other.run"), ..Said::default() }).is_err());
    }

    #[test]
    fn the_convention_follows_the_handler() {
        let of = |file: &str, said| found(&[(file, "")], said).unwrap().convention;
        assert_eq!(of("index.js", Said::default()), Convention::Request);
        assert_eq!(of("main.py", Said::default()), Convention::Request);
        assert_eq!(of("lambda_function.py", Said::default()), Convention::Event);
        assert_eq!(of("lambda_function.rb", Said::default()), Convention::Event);
        assert_eq!(of("index.js", Said { convention: Some(Convention::Event), ..Said::default() }), Convention::Event);
        assert_eq!(
            of("lambda_function.py", Said { convention: Some(Convention::Request), ..Said::default() }),
            Convention::Request
        );
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
