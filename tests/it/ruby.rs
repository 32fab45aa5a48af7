//! What only Ruby has: the forms of its handlers, AWS's words for its errors, gems of functions and of layers, threads on both sides of
//! a snapshot. What it shares with the other languages is tested with them (`per_language`).

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Lang, PATIENCE, Server, Shared, base64, eventually, zip_of};

static SERVER: Shared = Shared::new(&[]);

/// Deploys one file of AWS's convention under the handler; `None`, said aloud: there is no Ruby here.
fn event(what: &str, handler: &str, files: &[(&str, &str)], more: &[(&str, &str)]) -> Option<std::sync::Arc<Server>> {
    if !Lang::Ruby.is_here(what) {
        return None;
    }
    let server = SERVER.get();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    let mut fields = vec![("handler", handler), ("convention", "event")];
    fields.extend_from_slice(more);
    server.deploy(what, &zip_of(&files), &fields);
    Some(server)
}

fn call(server: &Server, name: &str, event: Value) -> (Option<String>, Value) {
    let answer = server.native(name, event.to_string()).expect(200);
    (answer.header("offshoot-function-error").map(str::to_owned), answer.json())
}

/// Calls and expects an answer, not an error.
#[track_caller]
fn value(server: &Server, name: &str, event: Value) -> Value {
    let (error, value) = call(server, name, event);
    assert_eq!(error, None, "{value}");
    value
}

#[test]
fn handlers_are_methods_of_files_of_modules_and_of_classes() {
    let code = "module Shop\n  class Orders\n    def self.process(event:, context:) = [name, event]\n  end\nend\n\
        def ready?(event:, context:) = true\n";
    // Named like a part of the standard library that is loaded long before.
    for (name, file, handler, wanted) in [
        ("rb-class", "src/app.rb", "src/app.Shop::Orders.process", json!(["Shop::Orders", 1])),
        ("rb-mark", "app.rb", "app.ready?", json!(true)),
        ("rb-json", "json.rb", "json.ready?", json!(true)),
    ] {
        let Some(server) = event(name, handler, &[(file, code)], &[]) else { return };
        assert_eq!(value(&server, name, json!(1)), wanted, "{name}");
    }
    let server = SERVER.get();
    let zip = zip_of(&[("app.rb", code.as_bytes())]);
    for handler in ["app.a.b.c", "app.shop.process", "app.Shop:Orders.process", "app.run!x"] {
        let error =
            server.try_deploy("rb-bad", &zip, &[("handler", handler), ("runtime", "ruby3.1")]).expect(400).error();
        assert!(error.contains("handler") || error.contains("ruby3.1"), "{handler}: {error}");
    }
    for handler in ["app.Shop::Nobody.process", "app.Shop::Orders.nothing", "app.nothing"] {
        server.deploy("rb-bad", &zip, &[("handler", handler), ("convention", "event")]);
        let (error, said) = call(&server, "rb-bad", json!({}));
        assert_eq!((error.as_deref(), &said["errorType"]), (Some("init"), &json!("Runtime.HandlerNotFound")), "{said}");
    }
}

#[test]
fn the_context_has_awss_members() {
    let code = "def handler(event:, context:)\n  first = context.get_remaining_time_in_millis\n  sleep 0.05\n  \
        [%w[aws_request_id invoked_function_arn function_name function_version memory_limit_in_mb log_group_name log_stream_name \
        deadline_ms identity client_context].to_h { |m| [m, context.public_send(m)] }, first - context.get_remaining_time_in_millis, \
        context.deadline_ms - Time.now.to_f * 1000]\nend\n";
    let Some(server) = event("rb-context", "app.handler", &[("app.rb", code)], &[("timeout", "9s")]) else { return };
    let said = value(&server, "rb-context", json!({}));
    let about = &said[0];
    assert_eq!(about["function_name"], "rb-context");
    assert_eq!(about["function_version"], "$LATEST");
    assert_eq!(about["memory_limit_in_mb"], "128");
    assert_eq!(about["invoked_function_arn"], "arn:aws:lambda:us-east-1:000000000000:function:rb-context");
    assert_eq!(about["log_group_name"], "/aws/lambda/rb-context");
    assert!(about["log_stream_name"].as_str().unwrap().contains("[$LATEST]"), "{about}");
    assert_eq!((&about["identity"], &about["client_context"]), (&Value::Null, &Value::Null));
    assert!(said[1].as_i64().unwrap() >= 50, "{said}");
    assert!((5000.0..9000.0).contains(&said[2].as_f64().unwrap()), "{said}");
}

#[test]
fn errors_are_worded_as_awss_client_does() {
    let code = "require 'stringio'\nclass OutOfStock < StandardError; end\n\
        def deeper(n) = n.zero? ? raise(OutOfStock, 'none left') : deeper(n - 1)\n\
        def handler(event:, context:)\n  case event['do']\n  when 'raise' then deeper(2)\n  when 'name' then no_such_thing\n  \
        when 'stack' then f = ->(n) { f.(n + 1) }; f.(0)\n  when 'throw' then throw :nobody\n  when 'bytes' then \"\\xff\"\n  \
        when 'odd' then raise Class.new(StandardError) { def message = raise('again') }\n  \
        when 'io' then StringIO.new('not \"JSON\"')\n  when 'kill' then Process.kill(:TERM, 0) && sleep(0.1)\n  else event['do']\n  end\nend\n";
    let Some(server) = event("rb-errors", "app.handler", &[("app.rb", code)], &[]) else { return };
    let (error, said) = call(&server, "rb-errors", json!({"do": "raise"}));
    assert_eq!(error.as_deref(), Some("handler"));
    let trace = "/var/task/app.rb:3:in `deeper'";
    let stack = said["stackTrace"].as_array().unwrap();
    assert!(stack.len() == 4 && stack[0].as_str().unwrap().starts_with(&trace[..trace.len() - 8]), "{said}");
    assert_eq!((&said["errorType"], &said["errorMessage"]), (&json!("Function<OutOfStock>"), &json!("none left")));
    assert_eq!(said.as_object().unwrap().len(), 3, "AWS's client has these three members: {said}");
    for (what, cause, kind) in [
        ("name", "handler", "Function<NameError>"),
        ("stack", "handler", "Function<SystemStackError>"),
        ("throw", "handler", "Function<UncaughtThrowError>"),
        ("bytes", "unserialisable", "Function<JSON::GeneratorError>"),
    ] {
        let (error, said) = call(&server, "rb-errors", json!({"do": what}));
        assert_eq!((error.as_deref(), &said["errorType"]), (Some(cause), &json!(kind)), "{said}");
    }
    let (_, said) = call(&server, "rb-errors", json!({"do": "odd"}));
    assert_eq!(said["errorMessage"], "the error that was raised could not be read", "{said}");
    // What reads like a file is sent as it is.
    let raw = server.native("rb-errors", json!({"do": "io"}).to_string()).expect(200);
    assert_eq!(raw.text(), "not \"JSON\"");
    // The instance has outlived all of it.
    let last = server.native("rb-errors", json!({"do": 7}).to_string()).expect(200);
    assert_eq!((last.header("offshoot-start"), last.json()), (Some("warm"), json!(7)));
    for (name, code, kind, word) in [
        ("rb-syntax", "def handler(event:", "Init<SyntaxError>", "yntax"),
        ("rb-load", "require 'no_such_library'", "Init<LoadError>", "no_such_library"),
        ("rb-init", "raise ArgumentError, 'not today'", "Init<ArgumentError>", "not today"),
    ] {
        event(name, "app.handler", &[("app.rb", code)], &[]);
        let (error, said) = call(&server, name, json!({}));
        assert_eq!((error.as_deref(), &said["errorType"]), (Some("init"), &json!(kind)), "{said}");
        assert!(said["errorMessage"].as_str().unwrap().contains(word), "{said}");
    }
}

#[test]
fn a_function_may_replace_the_marshaller() {
    let code = "module AwsLambda\n  class Marshaller\n    class << self\n      def marshall_request(raw) = [raw['Content-Type'], raw.body]\n      \
        def marshall_response(value) = JSON.generate(mine: value)\n    end\n  end\nend\ndef handler(event:, context:) = event\n";
    let Some(server) = event("rb-marshal", "app.handler", &[("app.rb", code)], &[]) else { return };
    assert_eq!(value(&server, "rb-marshal", json!({"a": 1})), json!({"mine": ["application/json", "{\"a\":1}"]}));
}

/// What a person writes at the top of a file becomes a method of every object; the worker must not call it in their place.
#[test]
fn methods_of_a_function_do_not_disturb_the_worker() {
    let names = "puts raise send call open read write fill next first format sleep require loop lock reply invoke state load \
        text frames message log flush parse claims violation exactly paths environment renew work ready adopt bytes trace members";
    let methods: String = names.split_whitespace().map(|n| format!("def {n}(*) = abort('mine: {n}')\n")).collect();
    let code = format!(
        "{methods}def handler(event:, context:) = event['fail'] ? Kernel.raise(IndexError, 'as asked') : event\n"
    );
    let Some(server) = event("rb-names", "app.handler", &[("app.rb", &code)], &[]) else { return };
    for n in 0..3 {
        assert_eq!(value(&server, "rb-names", json!({"n": n})), json!({"n": n}));
        assert_eq!(call(&server, "rb-names", json!({"fail": n})).1["errorType"], "Function<IndexError>");
    }
}

#[test]
fn a_logger_s_lines_name_the_request() {
    let code = "require 'logger'\nLOG = Logger.new($stdout)\ndef handler(event:, context:)\n  LOG.info('in words')\n  \
        warn 'to stderr'\n  puts 'plain'\n  context.aws_request_id\nend\n";
    let Some(server) = event("rb-logger", "app.handler", &[("app.rb", code)], &[]) else { return };
    for _ in 0..2 {
        let id = value(&server, "rb-logger", json!({})).as_str().unwrap().to_owned();
        eventually("the line names its request", PATIENCE, || {
            server.logs("rb-logger").iter().any(|l| l.starts_with("I, [") && l.contains(&id) && l.ends_with("in words"))
        });
    }
    assert!(["to stderr", "plain"].iter().all(|text| server.logs("rb-logger").iter().any(|l| l == text)));
}

const GEMSPEC: &str = "Gem::Specification.new do |s|\n  s.name = 'NAME'\n  s.version = '9.9.0'\n  s.summary = 'x'\n  s.authors = ['x']\n  \
    s.require_paths = ['lib']\nend\n";

/// The files of a gem, below the directory that RubyGems knows.
fn gem(at: &str, name: &str, code: &str) -> Vec<(String, String)> {
    vec![
        (format!("{at}/specifications/{name}-9.9.0.gemspec"), GEMSPEC.replace("NAME", name)),
        (format!("{at}/gems/{name}-9.9.0/lib/{name}.rb"), code.to_owned()),
    ]
}

fn zip_of_texts(files: &[(String, String)]) -> Vec<u8> {
    zip_of(&files.iter().map(|(n, t)| (n.as_str(), t.as_bytes())).collect::<Vec<_>>())
}

#[test]
fn gems_come_with_the_function_and_with_its_layers() {
    if !Lang::Ruby.is_here("gems") {
        return;
    }
    let server = SERVER.get();
    let name = server.deploy_case(Lang::Ruby, "echo", &[]);
    let runtime = server.get(&format!("/info/{name}")).json()["runtime"].as_str().unwrap().to_owned();
    let abi = format!("{}.0", runtime.trim_start_matches("ruby"));

    let mut layer = gem(&format!("ruby/gems/{abi}"), "layered", "LAYERED = 'from the layer'\n");
    layer.push(("ruby/lib/shared.rb".to_owned(), "SHARED = 'from its lib'\n".to_owned()));
    let published = json!({"Content": {"ZipFile": base64(&zip_of_texts(&layer))}});
    let arn = server.post("/2018-10-31/layers/rb-layer/versions", published.to_string()).expect(201).json()["LayerVersionArn"].clone();

    // A version of its own of a library that the worker has loaded already can still be activated.
    let mut code = gem(
        &format!("vendor/bundle/ruby/{abi}"),
        "greeting",
        "module Greeting\n  def self.to(name) = \"Hello, #{name}\"\nend\n",
    );
    code.extend(gem(&format!("vendor/bundle/ruby/{abi}"), "json", "raise 'not loaded twice'\n"));
    code.push(("lib/beside.rb".to_owned(), "BESIDE = 'beside'\n".to_owned()));
    code.push((
        "lambda_function.rb".to_owned(),
        "require 'layered'\nrequire 'shared'\nrequire 'greeting'\nrequire 'lib/beside'\nrequire_relative 'lib/beside'\ngem 'json', '9.9.0'\n\
         def lambda_handler(event:, context:)\n  [LAYERED, SHARED, Greeting.to('Ana'), BESIDE, Gem.loaded_specs['json'].version.to_s, \
         ENV['GEM_PATH'], $LOAD_PATH.first(1)]\nend\n"
            .to_owned(),
    ));
    let body = json!({
        "FunctionName": "rb-gems", "Runtime": runtime, "Role": "arn:aws:iam::000000000000:role/r", "Layers": [arn],
        "Handler": "lambda_function.lambda_handler", "Code": {"ZipFile": base64(&zip_of_texts(&code))},
    });
    server.post("/2015-03-31/functions", body.to_string()).expect(201);
    eventually("it is active", Duration::from_secs(20), || {
        server.get("/2015-03-31/functions/rb-gems/configuration").json()["State"] == "Active"
    });
    let said = value(&server, "rb-gems", json!({}));
    assert_eq!(
        said.as_array().unwrap()[..5],
        [json!("from the layer"), json!("from its lib"), json!("Hello, Ana"), json!("beside"), json!("9.9.0")]
    );
    let path = format!("/var/task/vendor/bundle/ruby/{abi}:/opt/ruby/gems/{abi}:/var/runtime:/var/runtime/ruby/{abi}");
    assert_eq!(said[5], path);
}

/// The engine's timers, event descriptors and handler of ended children work in clones of a snapshot too.
#[test]
fn threads_timers_and_children_work_after_a_snapshot() {
    let code = "require 'timeout'\nrequire 'open3'\nTEXT = 'x' * 100_000\ndef handler(event:, context:)\n  \
        sums = 4.times.map { |n| Thread.new { (1..200_000).sum { |i| i + n } } }.map(&:value)\n  \
        late = begin\n    Timeout.timeout(0.05) { sleep }\n  rescue Timeout::Error => e\n    e.class.name\n  end\n  \
        read, write = IO.pipe\n  Thread.new { sleep 0.01; write.puts 'woken'; write.close }\n  \
        [sums.uniq.size, late, read.gets, Open3.capture2('cat', stdin_data: TEXT).first.size, `echo hi`, $?.exitstatus, \
        Process.wait2(fork { exit!(3) })[1].exitstatus, Thread.list.size >= 1, Process.pid]\nend\n";
    for (name, snapshot, start) in [("rb-clone", "off", "clone"), ("rb-restore", "on", "restore")] {
        let Some(server) =
            event(name, "app.handler", &[("app.rb", code)], &[("snapshot", snapshot), ("memory", "256")])
        else {
            return;
        };
        for call in 0..3 {
            let answer = server.native(name, "{}").expect(200);
            assert_eq!(
                answer.header("offshoot-start"),
                Some(if call == 0 { start } else { "warm" }),
                "{}",
                answer.text()
            );
            assert_eq!(answer.json(), json!([4, "Timeout::Error", "woken\n", 100_000, "hi\n", 0, 3, true, 1]));
        }
    }
}

#[test]
fn a_function_that_leaves_threads_is_not_made_a_snapshot() {
    let left = "Thread.new { sleep }\ndef handler(event:, context:) = Thread.list.size\n";
    let joined = "Thread.new { sleep 0.01 }.join\ndef handler(event:, context:) = Thread.list.size\n";
    for (name, code, start, threads) in [("rb-leaves", left, "clone", 2), ("rb-joins", joined, "restore", 1)] {
        let Some(server) = event(name, "app.handler", &[("app.rb", code)], &[("snapshot", "on")]) else { return };
        let answer = server.native(name, "{}").expect(200);
        assert_eq!((answer.header("offshoot-start"), answer.json()), (Some(start), json!(threads)), "{name}");
        let said = server.logs(name).iter().any(|l| l.contains("leaves threads or processes running"));
        assert_eq!(said, start == "clone", "{:?}", server.logs(name));
    }
}

#[test]
fn answers_of_the_request_convention_take_symbols_bytes_and_files() {
    if !Lang::Ruby.is_here("answers of the request convention") {
        return;
    }
    let server = SERVER.get();
    for (code, status, kind, body) in [
        ("{ statusCode: 201, headers: { 'Content-Type': 'text/html' }, body: '<b>' }", 201, "text/html", &b"<b>"[..]),
        ("{ body: \"\\xff\\x00\".b }", 200, "application/octet-stream", b"\xff\x00"),
        (
            "{ body: File.open('/var/task/index.rb').tap { |f| f.seek(4) } }",
            200,
            "application/octet-stream",
            b"handler",
        ),
        (
            "{ body: { req.headers['CONTENT-TYPE'] => req.headers.key?('x-none') } }",
            200,
            "application/json",
            b"{\"text/plain\":false}",
        ),
        ("nil", 200, "application/json", b"null"),
    ] {
        server.deploy("rb-replies", &Lang::Ruby.inline("0"), &[]);
        let index = format!("def handler(req)\n  {code}\nend\n");
        server.deploy("rb-replies", &zip_of(&[("index.rb", index.as_bytes())]), &[]);
        let answer =
            server.request("POST", "/invoke/rb-replies", &[("Content-Type", "text/plain")], b"x").expect(status);
        assert_eq!(answer.header("content-type"), Some(kind), "{code}");
        assert!(answer.body.starts_with(body), "{code}: {:?}", answer.text());
    }
}

#[test]
fn a_version_that_is_not_here_is_refused_with_the_line_that_installs_it() {
    let server = SERVER.get();
    let zip = zip_of(&[("index.rb", b"def handler(req) = 1")]);
    let error = server.try_deploy("rb-none", &zip, &[("runtime", "ruby3.0")]).expect(400).error();
    assert!(error.contains("ruby3.0 is not on this machine") && error.contains("mise install ruby@3.0"), "{error}");
    let error = server.try_deploy("rb-none", &zip, &[("runtime", "ruby")]).expect(400).error();
    assert!(error.contains("not a runtime") && error.contains("ruby3.4"), "{error}");
}
