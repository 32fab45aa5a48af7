# frozen_string_literal: true

# The Ruby worker: the program that runs one function inside a box and answers the server's invocations on fd 3
# (docs/design/002-channel.md, 008-ruby.md). It runs unchanged on CRuby 3.1 and newer, standard library only, in two modes:
#
#     ruby -EUTF-8 worker.rb template <libjail.so>   warm up, then fork a worker per request
#     ruby -EUTF-8 worker.rb boot [<libjail.so>]     be the worker
#
# It never chooses a box, enforces a deadline, retries, or limits a body: that is the server's part. It never opens a
# socket or file that a clone would share, and it never lets a function's failure look like its own.
#
# A function's top-level methods become methods of every object, so the worker keeps its own in modules, and names the
# receiver of what it uses of Kernel.
#
# What a clone cannot renew is the seed of `Object#hash`: it is fixed when the template starts.

# The worker.
module Offshoot
  # What is required here does not activate the gem that it belongs to, so that a function's own version of a part of the
  # standard library can still be activated when the worker has that part loaded.
  def self.without_gems
    return yield unless defined?(Gem)

    through_gems = Kernel.instance_method(:require)
    Kernel.define_method(:require, Kernel.instance_method(:gem_original_require))
    begin
      yield
    ensure
      Kernel.define_method(:require, through_gems)
      Kernel.__send__(:private, :require)
    end
  end

  without_gems { %w[json rbconfig stringio].each { |name| Kernel.require(name) } }
end

# What AWS's context object is called, and how it behaves.
class LambdaContext
  attr_reader :aws_request_id, :invoked_function_arn, :log_group_name, :log_stream_name, :function_name,
              :memory_limit_in_mb, :function_version, :identity, :client_context, :tenant_id, :deadline_ms

  def initialize(header, about)
    @aws_request_id = header["id"]
    @invoked_function_arn = header["arn"] || about["arn"]
    @log_group_name = about["log_group"]
    @log_stream_name = about["log_stream"]
    @function_name = about["name"]
    @function_version = about["version"]
    @memory_limit_in_mb = about["memory_mib"].to_s
    @deadline_ms = header["deadline_ms"].to_i
    @identity = Offshoot.as_object(header["identity"])
    @client_context = Offshoot.as_object(header["client_context"])
  end

  def get_remaining_time_in_millis
    [@deadline_ms - Process.clock_gettime(Process::CLOCK_REALTIME, :millisecond), 0].max
  end
end

# The object whose private methods a function's top-level methods are when the handler is called, as on AWS.
class LambdaHandler
end

module AwsLambda
  # How events become objects and answers become bytes. AWS lets functions replace these two methods.
  class Marshaller
    class << self
      def marshall_request(raw_request)
        raw_request["Content-Type"] == "application/json" ? JSON.parse(raw_request.body) : raw_request.body
      end

      def marshall_response(method_response)
        case method_response
        when StringIO, IO then [method_response, "application/unknown"]
        else method_response.to_json
        end
      end
    end
  end
end

module Offshoot
  MISSING_LIBRARY = 78 # EX_CONFIG: tells the server to boot workers instead of cloning them

  # A failure with a type that AWS or Offshoot gave it, and the stack of what caused it.
  class Fault < StandardError
    attr_reader :kind, :stack

    def initialize(kind, message, stack = [])
      super(message)
      @kind = kind
      @stack = stack
    end
  end

  # The handler answered with something that cannot be sent. `cause` says why.
  class Unserialisable < StandardError
  end

  # --------------------------------------------------------------------------------------------------------- connect

  # Frames from and to the server, on fd 3, and the claims on fd 4.
  module Channel
    HEADER_LIMIT = 1 << 20
    CHUNK = 64 * 1024

    class << self
      attr_accessor :lock # held while sending, when invocations run concurrently

      def open
        @socket = IO.for_fd(3, "r+b", autoclose: false)
        @socket.sync = true
        @socket.close_on_exec = true
        @have = String.new(capacity: CHUNK, encoding: Encoding::BINARY)
        @more = String.new(capacity: CHUNK, encoding: Encoding::BINARY)
        @claims = claims
      rescue SystemCallError, ArgumentError # Ruby may use the number itself
        Log.write("the worker has no channel: descriptor 3 is not open")
        Process.exit!(64)
      end

      # In a clone other descriptors have taken these numbers.
      def renew
        @socket.close_on_exec = true
        @have.clear
        @claims = claims
      end

      # The next frame as [header, body].
      def next
        fill until @have.bytesize >= 8
        header_length, body_length = @have.unpack("VV")
        violation("a header of #{header_length} bytes") if header_length > HEADER_LIMIT
        total = 8 + header_length + body_length
        fill until @have.bytesize >= total
        header, body = parse(@have.byteslice(8, header_length)), @have.byteslice(8 + header_length, body_length)
        @have.bytesize == total ? @have.clear : @have = @have.byteslice(total..)
        [header, body]
      end

      # The first frame of a process. Not a byte is read beyond it: in a process that becomes a template what follows on
      # the channel is for the native library.
      def first
        header_length, body_length = exactly(8).unpack("VV")
        violation("a header of #{header_length} bytes") if header_length > HEADER_LIMIT
        header = parse(exactly(header_length))
        exactly(body_length) if body_length.positive?
        header
      end

      # Sends one frame: `head` a string of JSON, `body` bytes.
      def send(head, body = "")
        frame = [head.bytesize, body.bytesize].pack("VV") << head.b << body.b
        lock ? lock.synchronize { write(frame) } : write(frame)
      end

      # Whether an invocation that was sent behind another is still this worker's: the server takes back what waits too
      # long.
      def claim?
        @claims&.read_nonblock(1, exception: false).is_a?(String)
      rescue SystemCallError, IOError
        false
      end

      def violation(what)
        Log.write("the server sent #{what} on the channel")
        Process.exit!(1)
      end

      private

      def claims
        claims = IO.for_fd(4, "rb", autoclose: false)
        claims.close_on_exec = true
        claims
      rescue SystemCallError, ArgumentError
        nil # without claims no call is sent behind another
      end

      def parse(text)
        JSON.parse(text.force_encoding(Encoding::UTF_8))
      rescue JSON::ParserError
        violation("a header that is not JSON")
      end

      def exactly(length)
        data = String.new(encoding: Encoding::BINARY)
        data << read(length - data.bytesize) while data.bytesize < length
        data
      end

      def fill
        @have << read(CHUNK)
      end

      def read(length)
        @socket.sysread(length, @more)
      rescue EOFError, SystemCallError, IOError
        Process.exit!(0) # the server is gone, and nobody is left to tell
      end

      def write(frame)
        sent = @socket.syswrite(frame)
        sent += @socket.syswrite(frame.byteslice(sent..)) while sent < frame.bytesize
      rescue SystemCallError, IOError
        Process.exit!(0)
      end
    end
  end

  # ------------------------------------------------------------------------------------------------------------- jail

  # The shared library, through `fiddle` of the standard library.
  class Jail
    # The engine's descriptors are renewed in clones (Ruby keeps event descriptors of its own), and a clone enters its box
    # inside of `fork`, before Ruby may start a thread in it (docs/design/008-ruby.md).
    FLAGS = 1 | 2

    def initialize(path)
      Kernel.raise(ArgumentError, "no path was given") unless path
      begin
        Offshoot.without_gems { Kernel.require("fiddle") }
      rescue LoadError
        TOPLEVEL_BINDING.receiver.__send__(:require, "fiddle") # a gem of its own in newer Rubies
      end
      library = Fiddle.dlopen(path)
      int, text = Fiddle::TYPE_INT, Fiddle::TYPE_VOIDP
      @functions = {
        init: [int], wait: [int], before_fork: [], after_fork_parent: [int], spare: [], announce: [text],
        reseed: [text, Fiddle::TYPE_SIZE_T]
      }.to_h { |name, takes| [name, Fiddle::Function.new(library["ofs_#{name}"], takes, int)] }
      failed = call(:init, FLAGS)
      Kernel.raise(SystemCallError.new("ofs_init", -failed)) if failed.negative?
    end

    def call(name, *arguments)
      @functions.fetch(name).call(*arguments)
    end

    # Serves the control socket; returns only in a clone, whose box is sealed by then.
    def fork_clones
      while true
        asked = call(:wait, 3)
        Process.exit!(asked.zero? ? 0 : 1) unless asked.positive?
        next if call(:before_fork).negative? # the library has answered that it failed

        begin
          pid = Process.fork
        rescue SystemCallError => e
          pid = -e.errno
        rescue NotImplementedError
          pid = -1
        end
        return if pid.nil?

        call(:after_fork_parent, pid)
      end
    end
  end

  # ------------------------------------------------------------------------------------------------------------- load

  module Loading
    ABI = RbConfig::CONFIG["ruby_version"]
    CODE = "/var/task"
    # Where AWS looks for a function's gems, its own and its layers'; RUBYLIB's places stand in `start.rs` of the server.
    GEMS = ["#{CODE}/vendor/bundle/ruby/#{ABI}", "/opt/ruby/gems/#{ABI}", "/var/runtime", "/var/runtime/ruby/#{ABI}"].freeze
    LIBRARIES = ["/var/runtime/gems/aws_lambda_ric-3.1.3/lib", CODE, "/var/runtime/lib", "/opt/ruby/lib"].freeze

    class << self
      def environment(env)
        (ENV.keys - env.keys).each { |name| ENV.delete(name) }
        env.each { |name, value| ENV[name] = value unless ENV[name] == value }
      end

      # The load path and the gems that the interpreter would have, had it been started with the function's environment.
      def paths(libraries = ENV["RUBYLIB"].to_s, gems = ENV["GEM_PATH"].to_s)
        missing = libraries.split(":").reject(&:empty?) - $LOAD_PATH
        $LOAD_PATH.unshift(*missing) unless missing.empty?
        return unless defined?(Gem)

        # The machine's gems stay within reach, behind the function's.
        wanted = (gems.split(":").reject(&:empty?) + GEMS).uniq + Gem.default_path
        Gem.paths = { "GEM_PATH" => wanted.join(":") } unless (wanted - Gem.path).empty?
      end

      # The handler as something to call with keywords or a request.
      def function(text)
        root = ENV.fetch("LAMBDA_TASK_ROOT", CODE)
        $LOAD_PATH.unshift(root) unless $LOAD_PATH.include?(root)
        file, *owner, name = text.split(".", -1)
        if name.nil? || owner.size > 1
          Kernel.raise Fault.new("Runtime.MalformedHandlerName", "Bad handler '#{text}': write file.method or file.Module::Class.method")
        end
        # By its whole path: a function's file may be called like a library that is loaded already.
        Kernel.require(File.join(root, file))
        target = owner.empty? ? LambdaHandler.new : constant(owner.first, file)
        unless target.respond_to?(name, true)
          Kernel.raise Fault.new("Runtime.HandlerNotFound", "Handler '#{name}' missing in '#{[file, *owner].join(".")}'")
        end
        [target, name.to_sym]
      end

      # Whether this is the only thread of the only process of its box: another would live on in the template, see every
      # clone, and could be in the middle of anything when it is forked. Ruby keeps an ended thread's for some seconds.
      def alone?(engine_threads)
        40.times do
          return false if Thread.list.size > 1 || Dir.children("/proc").grep(/\A\d+\z/).size > 1
          return true if Dir.children("/proc/self/task").size <= engine_threads

          Kernel.sleep(0.1)
        end
        false
      rescue SystemCallError
        false
      end

      private

      def constant(name, file)
        Object.const_get(name)
      rescue NameError => e
        Kernel.raise unless e.message.include?("uninitialized constant")
        Kernel.raise Fault.new("Runtime.HandlerNotFound", "'#{name}' missing in '#{file}'")
      end
    end
  end

  # ------------------------------------------------------------------------------------------------------------ ready

  @before_snapshot = []
  @after_restore = []

  class << self
    attr_reader :state

    # AWS has no hooks for Ruby; these are Offshoot's own, with the order that AWS's hooks for Python have.
    def register_before_snapshot(callable = nil, &block)
      @before_snapshot << (callable || block)
    end

    def register_after_restore(callable = nil, &block)
      @after_restore << (callable || block)
    end

    def run_hooks(hooks, kind)
      hooks.each(&:call)
    rescue StandardError, ScriptError => e
      shape = Errors.describe(e)
      Kernel.raise Fault.new(kind, "#{shape[:errorType]}: #{shape[:errorMessage]}", shape[:stackTrace])
    end

    def as_object(value)
      value = JSON.parse(value) if value.is_a?(String)
      value if value.is_a?(Hash)
    rescue JSON::ParserError
      nil
    end

    def now_us
      Process.clock_gettime(Process::CLOCK_MONOTONIC, :microsecond)
    end

    # ------------------------------------------------------------------------------------------------------------ loop

    def serve
      return serve_many if concurrent?

      while true
        header, body = expect_invoke
        if header["claim"] && !Channel.claim?
          Channel.send(%({"t":"skipped","id":#{header["id"].to_json}}))
        else
          invoke(header, body)
        end
      end
    end

    # Several invocations at once share a few threads; the main thread only reads.
    def serve_many
      Channel.lock = Mutex.new
      waiting = Queue.new
      state.load["max_concurrency"].times do
        Thread.new do
          while true
            invoke(*waiting.pop)
          end
        end
      end
      waiting << expect_invoke while true
    end

    def expect_invoke
      header, body = Channel.next
      Channel.violation("an unexpected frame #{header["t"].inspect}") unless header["t"] == "invoke"
      [header, body]
    end

    # One invocation from frame to frame, in this thread.
    def invoke(header, body)
      Log.request_id = header["id"]
      header["began"] = now_us
      answer =
        begin
          state.convention.answer(header, body)
        rescue Exception => e # whatever a function does, it is answered
          Errors.answer(header, e)
        end
      Log.flush
      Channel.send(*answer)
    end

    def concurrent?
      state.load["max_concurrency"].to_i > 1
    end

    # What the handler took, for the server's choice of where calls go.
    def reply(header, more = "")
      %({"t":"reply","id":#{header["id"].to_json},"us":#{now_us - header["began"].to_i}#{more}})
    end
  end

  # What this process is at the moment. One object, so that a reader sees all the state there is.
  State = Struct.new(:jail, :load, :target, :name, :convention, :cloned, :engine_threads, keyword_init: true)
  @state = State.new(load: {})

  # ---- the event convention: handler(event:, context:)

  module Event
    # What AWS's client hands its marshaller, as far as there is something to hand.
    Raw = Struct.new(:body, :headers) do
      def [](name)
        headers.find { |key, _| key.casecmp?(name) }&.last
      end
    end

    class << self
      def answer(header, body, state = Offshoot.state)
        trace(header["trace"]) unless Offshoot.concurrent?
        body = body.empty? ? "{}" : body.force_encoding(Encoding::UTF_8)
        event = AwsLambda::Marshaller.marshall_request(Raw.new(body, { "Content-Type" => "application/json" }))
        result = state.target.__send__(state.name, event: event, context: LambdaContext.new(header, state.load["function"]))
        [Offshoot.reply(header), bytes(result)]
      end

      # `Function<ClassName>`, as AWS's client names a function's errors.
      def error_shape(shape, where)
        kind = shape[:errorType]
        { errorMessage: shape[:errorMessage], errorType: kind.start_with?("Runtime.") ? kind : "#{where}<#{kind}>",
          stackTrace: shape[:stackTrace] }
      end

      private

      def trace(value)
        value ? ENV["_X_AMZN_TRACE_ID"] = value : ENV.delete("_X_AMZN_TRACE_ID")
      end

      def bytes(result)
        text, type = AwsLambda::Marshaller.marshall_response(result)
        type == "application/unknown" ? text.read.to_s : text.to_s
      rescue StandardError, SystemStackError => e
        Kernel.raise Unserialisable, e.message, e.backtrace
      end
    end
  end

  # ---- the request convention: handler(request) → { statusCode:, headers:, body: } | anything

  # The headers of a request, found by any spelling; repeated ones are joined by a comma.
  class Headers < Hash
    def initialize(pairs)
      super()
      pairs.each do |name, value|
        name = Headers.canonical(name)
        store(name, key?(name) ? "#{self[name]},#{value}" : value)
      end
    end

    # `content-type` → `Content-Type`.
    def self.canonical(name)
      name.to_s.split("-", -1).map(&:capitalize).join("-")
    end

    def [](name) = super(Headers.canonical(name))
    def fetch(name, *default, &block) = super(Headers.canonical(name), *default, &block)
    def key?(name) = super(Headers.canonical(name))
    alias include? key?
    alias has_key? key?
    alias member? key?
  end

  # What a handler of the request convention is called with.
  class Request
    attr_reader :method, :path, :query, :headers, :bytes, :id

    def initialize(header, body)
      http = header["http"] || {}
      @method = http.fetch("method", "POST")
      @path = http.fetch("path", "/")
      @query = http["query"] || ""
      @headers = Headers.new(http["headers"] || [])
      @bytes = body
      @id = header["id"]
    end

    def body
      @body ||= @bytes.dup.force_encoding(Encoding::UTF_8).scrub
    end
    alias text body

    # Ruby puts this into messages of errors, where headers and bodies have no business.
    def inspect = "#<Request #{@method} #{@path}>"

    def json
      JSON.parse(body)
    rescue JSON::ParserError
      Kernel.raise ArgumentError, "invalid JSON body"
    end
  end

  module RequestReply
    MEMBERS = %w[statusCode headers body isBase64Encoded].freeze
    NAME = /\A[!#$%&'*+.^_`|~0-9A-Za-z-]+\z/
    UNFIT = /[\x00-\x08\x0a-\x1f\x7f]/

    class << self
      def answer(header, body, state = Offshoot.state)
        conclude(header, state.target.__send__(state.name, Request.new(header, body)))
      end

      def conclude(header, result)
        result = members(result)
        lines, typed = header_lines(result["headers"])
        bytes, kind = body_of(result, typed)
        lines << %(["Content-Type","#{kind}"]) if kind && !typed
        http = %(,"http":{"status":#{status_of(result["statusCode"])},"headers":[#{lines.join(",")}]})
        [Offshoot.reply(header, http), bytes]
      end

      def error_shape(shape, _where)
        { errorType: shape[:errorType], errorMessage: shape[:errorMessage], stackTrace: shape[:stackTrace] }
      end

      private

      # Names may be strings or symbols. What has none of them is the body itself.
      def members(result)
        if result.is_a?(Hash)
          named = MEMBERS.filter_map do |name|
            key = [name, name.to_sym].find { |k| result.key?(k) }
            [name, result[key]] if key
          end
        end
        named.nil? || named.all? { |name, _| name == "isBase64Encoded" } ? { "body" => result } : named.to_h
      end

      # Bytes stay bytes; a string is sent as it is when the function named its type; anything else is JSON.
      def body_of(result, typed)
        return ["", nil] unless result.key?("body")

        body = result["body"]
        if result["isBase64Encoded"] == true && body.is_a?(String)
          return [body.unpack1("m0"), "application/octet-stream"]
        end
        return [body.read.to_s, "application/octet-stream"] if body.is_a?(StringIO) || body.is_a?(IO)
        return [body, "application/octet-stream"] if body.is_a?(String) && body.encoding == Encoding::BINARY
        return [body, nil] if body.is_a?(String) && typed

        [body.to_json, "application/json"]
      rescue StandardError, SystemStackError => e
        Kernel.raise Unserialisable, "the body cannot be sent: #{e.message}"
      end

      def status_of(code)
        return 200 if code.nil? || code == 0

        status = code.is_a?(String) ? Integer(code, 10, exception: false) : code
        status = status.to_i if status.is_a?(Float) && status.finite? && status == status.floor
        unless status.is_a?(Integer) && status.between?(200, 599)
          Kernel.raise Unserialisable, "statusCode must be a whole number from 200 to 599, not #{code.inspect[0, 80]}"
        end
        status
      end

      # The headers as JSON pairs, and whether the function named a content type.
      def header_lines(headers)
        return [[], false] if headers.nil?

        Kernel.raise Unserialisable, "headers must be a Hash" unless headers.is_a?(Hash)
        typed = false
        lines = headers.flat_map do |name, values|
          next [] if values.nil?

          name = name.to_s
          Kernel.raise Unserialisable, "#{name.inspect[0, 80]} is not a header name" unless NAME.match?(name)
          typed ||= name.casecmp?("content-type")
          (values.is_a?(Array) ? values : [values]).map { |value| "[#{name.to_json},#{header_value(name, value).to_json}]" }
        end
        [lines, typed]
      end

      def header_value(name, value)
        unless [String, Symbol, Numeric, true, false].any? { |kind| kind === value }
          Kernel.raise Unserialisable, "the value of header #{name} must be a string, a number or a list of them"
        end
        text = value.to_s
        text = text.dup.force_encoding(Encoding::UTF_8) unless text.encoding == Encoding::UTF_8
        if !text.valid_encoding? || UNFIT.match?(text)
          Kernel.raise Unserialisable, "the value of header #{name} has a character that headers cannot carry"
        end
        text
      end
    end
  end

  # ------------------------------------------------------------------------------------------------------------- fail

  module Errors
    MESSAGE_LIMIT = 256 * 1024 # an error is for people; one that is longer would only fail to be delivered
    FRAMES = 100

    class << self
      # What an error looks like to the caller. Never raises, whatever was raised.
      def describe(error)
        kind = error.is_a?(Fault) ? error.kind : error.class.to_s
        kind = "Runtime.MarshalError" if error.is_a?(Unserialisable) && !event?
        kind = error.cause.class.to_s if error.is_a?(Unserialisable) && event? && error.cause
        stack = error.is_a?(Fault) ? error.stack : frames(error)
        { errorType: text(kind), errorMessage: message(error), stackTrace: stack }
      end

      # The frame that answers an invocation whose handler raised.
      def answer(header, error)
        exit_as_asked(error) if error.is_a?(SystemExit)
        shape = describe(error)
        Log.error("RequestId: #{header["id"]} Invoke Error", shape)
        kind = error.is_a?(Unserialisable) ? "unserialisable" : "handler"
        shape = Offshoot.state.convention.error_shape(shape, "Function")
        [%({"t":"error","id":#{header["id"].to_json},"kind":"#{kind}"}), shape.to_json]
      end

      def loading(error)
        exit_as_asked(error) if error.is_a?(SystemExit)
        shape = describe(error)
        shape = shape.merge(errorType: load_error(error)) unless event?
        Log.error("Init Error", shape)
        shape = (Offshoot.state.convention || Event).error_shape(shape, "Init")
        Channel.send('{"t":"init_error"}', shape.to_json)
        leave(1)
      end

      # `exit` in a function ends the process; the server tells the caller, with the exit code.
      def exit_as_asked(error)
        leave(error.status)
      end

      # Ends the process without running exit handlers.
      def leave(code)
        Log.flush
        Process.exit!(code)
      end

      private

      def event?
        Offshoot.state.convention != RequestReply
      end

      def load_error(error)
        case error
        when Fault then error.kind
        when SyntaxError then "Runtime.UserCodeSyntaxError"
        when LoadError then "Runtime.ImportModuleError"
        else error.class.to_s
        end
      end

      def message(error)
        text(error.message)[0, MESSAGE_LIMIT]
      rescue Exception # a function's own `message` may do anything
        "the error that was raised could not be read"
      end

      def text(value)
        value = value.to_s
        value.encoding == Encoding::UTF_8 ? value.scrub : value.encode(Encoding::UTF_8, invalid: :replace, undef: :replace)
      end

      # The function's own frames: how the worker got there says nothing.
      def frames(error)
        lines = (error.backtrace || []).map { |line| text(line) }
        own = lines.index { |line| line.start_with?(__FILE__) } || lines.size
        lines.first([own, FRAMES].min).reject { |line| line.start_with?("<internal:") }
      rescue Exception
        []
      end
    end
  end

  # -------------------------------------------------------------------------------------------------------------- log

  module Log
    class << self
      # The invocation that this thread serves.
      def request_id=(id)
        Offshoot.concurrent? ? Thread.current[:aws_request_id] = id : @request_id = id
      end

      def request_id
        Thread.current[:aws_request_id] || @request_id
      end

      # Lines appear as they are written.
      def open
        STDOUT.sync = STDERR.sync = true
      end

      def flush
        STDOUT.flush unless STDOUT.sync
        STDERR.flush unless STDERR.sync
      rescue SystemCallError, IOError
        nil # the function may have closed it
      end

      def write(text)
        flush # what the function wrote before comes before
        STDERR.syswrite("#{text}\n")
      rescue SystemCallError, IOError
        nil # a log that cannot be written has nowhere to be reported
      end

      def error(title, shape)
        stack = shape[:stackTrace].map { |line| "\n\tfrom #{line}" }.join
        write("ERROR\t#{title}\t#{shape[:errorType]}: #{shape[:errorMessage]}#{stack}")
      end
    end

    # On AWS a Logger that writes to standard output names the request in each line.
    module Lines
      def initialize(logdev = nil, *rest, formatter: nil, **options)
        formatter ||= AwsFormatter.new if Offshoot.state.convention == Event && [$stdout, $stderr].include?(logdev)
        super(logdev, *rest, formatter: formatter, **options)
      end
    end

    def self.extend_logger
      Offshoot.without_gems { Kernel.require("logger") }
      const_set(:AwsFormatter, Class.new(Logger::Formatter) do
        def call(severity, time, progname, msg)
          about = [severity[0], format_datetime(time), Process.pid, severity, Log.request_id, progname, msg2str(msg)]
          Kernel.format("%s, [%s #%d] %5s %s -- %s: %s\n", *about)
        end
      end)
      Logger.prepend(Lines)
    end
  end

  # ------------------------------------------------------------------------------------------------------------ start

  # The life of the process.
  module Life
    # What AWS's client has loaded, and what functions most often require beside it. Once in the template it costs its
    # clones neither time nor memory.
    PRELOAD = %w[
      base64 benchmark bigdecimal cgi/util cgi/escape date delegate digest digest/sha2 English erb etc fileutils forwardable io/console io/wait
      ipaddr json logger monitor net/http observer open3 openssl optparse ostruct pathname pp rbconfig securerandom set shellwords singleton
      socket stringio strscan tempfile time timeout tmpdir tsort uri weakref zlib
    ].freeze

    class << self
      def main(mode, library)
        ARGV.clear
        Log.open
        Channel.open
        Log.extend_logger
        case mode
        when "template" then template(library)
        when "boot" then boot(library)
        else
          Log.write("usage: worker.rb template <library> | worker.rb boot [<library>]")
          Process.exit!(64)
        end
      end

      private

      def state = Offshoot.state

      def template(library)
        preload
        begin
          state.jail = Jail.new(library)
        rescue Exception => e
          Log.write("the worker cannot use #{library}: #{e.message}")
          Process.exit!(MISSING_LIBRARY)
        end
        paths
        rehearse
        settle
        state.jail.call(:announce, RUBY_VERSION)
        state.jail.fork_clones
        state.cloned = true
        Channel.renew
        work
      end

      def boot(library)
        begin
          state.jail = Jail.new(library) if library
        rescue Exception
          state.jail = nil # `ready` says that there is no snapshot
        end
        paths
        work
      end

      def preload
        Offshoot.without_gems do
          PRELOAD.each do |name|
            Kernel.require(name)
          rescue LoadError
            next # some are gems of their own in newer Rubies, and interpreters are built without openssl and the like
          end
        end
      end

      # The places that every function's code is looked for in: clones find most of their paths set.
      def paths
        $LOAD_PATH.unshift(*(Loading::LIBRARIES - $LOAD_PATH))
        Loading.paths("", "")
      end

      # Leaves the heap as clones should find it: what is old is marked as old and lies together, so that a clone's
      # collections write to few of the pages that it shares.
      def settle
        if Process.respond_to?(:warmup)
          Process.warmup
        else
          age
          GC.compact if GC.respond_to?(:compact)
        end
      rescue NotImplementedError
        nil # not every machine can compact
      ensure
        sort
      end

      # An object is old when it has survived three collections.
      def age
        4.times { GC.start }
      end

      # What collections have freed lies on the C library's list of the unsorted, and the next allocation of some size sorts it,
      # with a write to every piece: here, once, and not in each clone.
      def sort
        3.times { String.new(capacity: 100_000).clear }
        @sorted = String.new(capacity: 100_000)
      end

      # The first frame and what follows from it.
      def work
        frame = Channel.first
        started = Offshoot.now_us
        Channel.violation("#{frame["t"].inspect} where \"load\" belongs") unless frame["t"] == "load"
        threads = Dir.children("/proc/self/task").size
        begin
          adopt(frame)
          snapshot = frame["snapshot"] == true && !state.jail.nil?
          state.convention = frame["convention"] == "request" ? RequestReply : Event
          state.target, state.name = Loading.function(frame["handler"])
          if snapshot && !Loading.alone?(threads)
            Log.write("this function leaves threads or processes running when it has initialised: no snapshot is made of it")
            snapshot = false
          end
          Offshoot.run_hooks(Offshoot.instance_variable_get(:@before_snapshot).reverse, "Runtime.BeforeSnapshotError") if snapshot
          Log.flush
        rescue Exception => e
          Errors.loading(e)
        end
        return be_snapshot(started) if snapshot

        ready(started, frame["snapshot"] == true ? ',"snapshot":false' : "")
        Offshoot.serve
      end

      # The rest of the life of a function template: first in the template, then in each of its clones.
      def be_snapshot(started)
        age # and nothing is moved: what a function loads may not be made for that
        sort
        ready(started)
        state.jail.fork_clones
        state.cloned = true
        Channel.renew
        frame = Channel.first
        started = Offshoot.now_us
        Channel.violation("#{frame["t"].inspect} where \"resume\" belongs") unless frame["t"] == "resume"
        begin
          adopt(frame)
          Offshoot.run_hooks(Offshoot.instance_variable_get(:@after_restore), "Runtime.AfterRestoreError")
          Log.flush
        rescue Exception => e
          Errors.loading(e)
        end
        ready(started)
        Offshoot.serve
      end

      # Takes over what a `load` or `resume` frame says about the function.
      def adopt(frame)
        state.load = state.load.merge(frame)
        # Started through a wrapper, it has the environment that the wrapper left it.
        Loading.environment(frame["env"] || {}) unless frame["keep_env"]
        Loading.paths
        renew(frame) if state.cloned
      end

      # Everything in which a fork would repeat its siblings: random numbers, temporary names, the name of this process.
      # `SecureRandom`, `Random.urandom` and `Random.new` ask the kernel each time and need nothing.
      def renew(frame)
        seed = [frame["seed"].to_s].pack("H*")
        Channel.violation("a seed that is not 32 bytes") unless seed.bytesize == 32
        state.jail.call(:reseed, seed, seed.bytesize)
        Random.srand((seed + Random.urandom(32)).unpack1("H*").to_i(16))
        # Temporary names come from a generator that the library makes when it is loaded.
        names = Dir::Tmpname.const_get(:RANDOM, false) if defined?(Dir::Tmpname)
        names.__send__(:initialize) if names.is_a?(Random)
        File.write("/proc/self/comm", (frame.dig("function", "name") || "ruby").to_s[0, 15])
      rescue SystemCallError, NameError
        nil # a name for people who list processes, and one of a library that may go; nothing else raises here
      end

      def ready(started, more = "")
        Channel.send(%({"t":"ready","init_us":#{Offshoot.now_us - started},"version":"#{RUBY_VERSION}"#{more}}))
      end

      # Runs the paths that every start and invocation takes, so that clones inherit them ready: a clone's first run of
      # anything costs several times its second. Nothing is sent, and nothing of it stays.
      def rehearse
        own, env = File.dirname(File.expand_path(__FILE__)), ENV.to_h
        file = File.join(own, "rehearsal.rb")
        3.times do
          Loading.environment(env.merge("LAMBDA_TASK_ROOT" => own))
          state.jail.call(:reseed, Random.urandom(32), 32) # the first time, OpenSSL makes its generators
          state.target, state.name = Loading.function("rehearsal.Rehearsal.main")
          rehearse_invocations(50)
          $LOADED_FEATURES.delete(file)
          Object.__send__(:remove_const, :Rehearsal)
          $LOAD_PATH.delete(own)
          Loading.environment(env)
        end
        state.load, state.target, state.name, state.convention = {}, nil, nil, nil
        Kernel.require("set") # what has been loaded is indexed anew, here and not in each clone
      end

      def rehearse_invocations(rounds)
        http = { "method" => "POST", "path" => "/", "query" => "", "headers" => [["content-type", "application/json"]] }
        frame = { "t" => "invoke", "id" => "rehearsal", "deadline_ms" => 1, "arn" => "arn", "http" => http }.to_json
        state.load = { "function" => { "memory_mib" => 128 } }
        rounds.times do
          state.convention = Event
          Event.answer(JSON.parse(frame), +'{"a":[1,"x"]}')
          state.convention = RequestReply
          Request.new(JSON.parse(frame), +"{}").json
          RequestReply.conclude(JSON.parse(frame), { "statusCode" => 200, "headers" => { "X-A" => "b" }, "body" => { "a" => 1.5 } })
        end
      end
    end
  end
end

Offshoot::Life.main(*ARGV.first(2))
