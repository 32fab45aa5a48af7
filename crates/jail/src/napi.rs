//! The shared library as a Node.js module: `init()`, `announce(version)`, `waitAndFork()`, `reseed(buffer)`,
//! `exit(code)`. Node's
//! functions are looked up when the module is loaded, never linked, so that the same file loads in Python too. It holds no
//! state but the addresses of those functions.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::Write;
use std::ptr;
use std::sync::OnceLock;

use crate::nursery::{CONTROL, report_box_error};
use crate::spec::BOX_FAILED;
use crate::sys::{self, Error};
use crate::template;

type Env = *mut c_void;
type Value = *mut c_void;
type Info = *mut c_void;
type Callback = extern "C" fn(Env, Info) -> Value;

/// The functions of the engine, by their C signatures.
struct Engine {
    create_function: unsafe extern "C" fn(Env, *const c_char, usize, Callback, *mut c_void, *mut Value) -> c_int,
    set_named_property: unsafe extern "C" fn(Env, Value, *const c_char, Value) -> c_int,
    get_cb_info: unsafe extern "C" fn(Env, Info, *mut usize, *mut Value, *mut Value, *mut *mut c_void) -> c_int,
    get_boolean: unsafe extern "C" fn(Env, bool, *mut Value) -> c_int,
    throw_error: unsafe extern "C" fn(Env, *const c_char, *const c_char) -> c_int,
    get_buffer_info: unsafe extern "C" fn(Env, Value, *mut *mut c_void, *mut usize) -> c_int,
    get_value_int32: unsafe extern "C" fn(Env, Value, *mut i32) -> c_int,
    get_value_string_utf8: unsafe extern "C" fn(Env, Value, *mut c_char, usize, *mut usize) -> c_int,
    get_uv_event_loop: unsafe extern "C" fn(Env, *mut *mut c_void) -> c_int,
    uv_loop_fork: unsafe extern "C" fn(*mut c_void) -> c_int,
}

static ENGINE: OnceLock<Option<Engine>> = OnceLock::new();

impl Engine {
    fn get() -> Option<&'static Self> {
        ENGINE.get_or_init(Self::find).as_ref()
    }

    fn find() -> Option<Self> {
        // SAFETY: each name gets the signature that Node-API (stable by its own promise) and libuv (since
        // 1.12) document for it.
        unsafe {
            Some(Self {
                create_function: function(c"napi_create_function")?,
                set_named_property: function(c"napi_set_named_property")?,
                get_cb_info: function(c"napi_get_cb_info")?,
                get_boolean: function(c"napi_get_boolean")?,
                throw_error: function(c"napi_throw_error")?,
                get_buffer_info: function(c"napi_get_buffer_info")?,
                get_value_int32: function(c"napi_get_value_int32")?,
                get_value_string_utf8: function(c"napi_get_value_string_utf8")?,
                get_uv_event_loop: function(c"napi_get_uv_event_loop")?,
                uv_loop_fork: function(c"uv_loop_fork")?,
            })
        }
    }

    fn boolean(&self, env: Env, value: bool) -> Value {
        let mut result = ptr::null_mut();
        // SAFETY: `env` is the environment of the current call, `result` a valid place.
        unsafe { (self.get_boolean)(env, value, &raw mut result) };
        result
    }

    fn throw(&self, env: Env, message: &str) -> Value {
        let text = std::ffi::CString::new(message).unwrap_or_default();
        // SAFETY: `env` is the environment of the current call; the text is NUL-terminated and copied by the engine.
        unsafe { (self.throw_error)(env, ptr::null(), text.as_ptr()) };
        ptr::null_mut()
    }

    fn first_argument(&self, env: Env, info: Info) -> Value {
        let (mut count, mut argument) = (1, ptr::null_mut());
        // SAFETY: `env` and `info` are those of the current call; there is room for one argument, as `count` says.
        unsafe {
            (self.get_cb_info)(env, info, &raw mut count, &raw mut argument, ptr::null_mut(), ptr::null_mut());
        }
        argument
    }

    fn text(&self, env: Env, value: Value) -> Option<String> {
        let (mut buffer, mut length) = ([0u8; 64], 0);
        // SAFETY: the pointer and length describe `buffer`; a value that is no string is refused by the engine.
        let status = unsafe {
            (self.get_value_string_utf8)(env, value, buffer.as_mut_ptr().cast(), buffer.len(), &raw mut length)
        };
        (status == 0).then(|| String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// After a fork: gives the event loop a queue and wake-up descriptors of its own.
    fn renew_loop(&self, env: Env) -> Result<(), Error> {
        let mut event_loop = ptr::null_mut();
        // SAFETY: `env` is the environment of the current call.
        unsafe { (self.get_uv_event_loop)(env, &raw mut event_loop) };
        // SAFETY: the loop belongs to this thread, and this is the child of a fork, as uv_loop_fork requires.
        match unsafe { (self.uv_loop_fork)(event_loop) } {
            0 => Ok(()),
            error => Err(Error::errno("uv_loop_fork", -error)),
        }
    }
}

/// Looks a function of the engine up.
///
/// # Safety
/// `F` must be the type of a pointer to the function of that name.
unsafe fn function<F: Copy>(name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: by contract of this function the address is that of a function of type `F`, which has a pointer's size.
    sys::symbol(name).map(|address| unsafe { std::mem::transmute_copy(&address) })
}

extern "C" fn init(env: Env, _: Info) -> Value {
    let Some(engine) = Engine::get() else { return ptr::null_mut() };
    match template::ofs_init(template::OFS_KEEPS_DESCRIPTORS) {
        0 => engine.boolean(env, true),
        error => engine.throw(env, &Error::errno("init", -error).to_string()),
    }
}

extern "C" fn announce(env: Env, info: Info) -> Value {
    let Some(engine) = Engine::get() else { return ptr::null_mut() };
    let Some(version) = engine.text(env, engine.first_argument(env, info)) else {
        return engine.throw(env, "announce(version) takes a string");
    };
    match template::announce(&version) {
        Ok(()) => engine.boolean(env, true),
        Err(e) => engine.throw(env, &e.to_string()),
    }
}

/// Serves the control socket. Comes back only in a clone, in its box; at end of file the process ends.
extern "C" fn wait_and_fork(env: Env, _: Info) -> Value {
    let Some(engine) = Engine::get() else { return ptr::null_mut() };
    loop {
        match template::ofs_wait(CONTROL) {
            0 => sys::leave(0),
            1 => {}
            error => {
                let error = Error::errno("serve the control socket", -error);
                writeln!(std::io::stderr(), "template: {error}").ok();
                sys::leave(1)
            }
        }
        if template::ofs_before_fork() != 0 {
            continue;
        }
        // SAFETY: the template runs with --single-threaded. Whatever helper threads the engine still has are waiting,
        // and the clone never needs the locks they hold (measured: house.md).
        let pid = unsafe { libc::fork() };
        if pid != 0 {
            template::ofs_after_fork_parent(pid);
            continue;
        }
        template::ofs_after_fork_child();
        if let Err(e) = engine.renew_loop(env) {
            report_box_error(&e);
            sys::leave(BOX_FAILED);
        }
        return engine.boolean(env, true);
    }
}

/// Ends the process at once. `process.reallyExit` would wait for the engine's helper threads, which a clone does not have.
extern "C" fn exit(env: Env, info: Info) -> Value {
    let mut code = 1;
    if let Some(engine) = Engine::get() {
        // SAFETY: `env` is that of the current call, `code` a valid place; a value that is no number leaves it alone.
        unsafe { (engine.get_value_int32)(env, engine.first_argument(env, info), &raw mut code) };
    }
    sys::leave(code)
}

extern "C" fn spare(env: Env, _: Info) -> Value {
    let Some(engine) = Engine::get() else { return ptr::null_mut() };
    engine.boolean(env, template::ofs_spare() != 0)
}

extern "C" fn seal(env: Env, _: Info) -> Value {
    let Some(engine) = Engine::get() else { return ptr::null_mut() };
    template::ofs_seal();
    engine.boolean(env, true)
}

extern "C" fn reseed(env: Env, info: Info) -> Value {
    let Some(engine) = Engine::get() else { return ptr::null_mut() };
    let (mut data, mut length) = (ptr::null_mut(), 0);
    // SAFETY: `env` is that of the current call; a value that is no buffer is refused by the engine.
    let status =
        unsafe { (engine.get_buffer_info)(env, engine.first_argument(env, info), &raw mut data, &raw mut length) };
    if status != 0 || data.is_null() {
        return engine.throw(env, "reseed(buffer) takes a buffer that is not empty");
    }
    // SAFETY: the engine says that `length` bytes lie at `data`; they are not changed while we read them.
    template::reseed(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) });
    engine.boolean(env, true)
}

/// What Node calls when it loads the library.
///
/// # Safety
/// `env` and `exports` are those of a module that Node is loading.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn napi_register_module_v1(env: Env, exports: Value) -> Value {
    let Some(engine) = Engine::get() else { return exports };
    let functions: [(&CStr, Callback); 7] = [
        (c"init", init),
        (c"announce", announce),
        (c"waitAndFork", wait_and_fork),
        (c"spare", spare),
        (c"seal", seal),
        (c"reseed", reseed),
        (c"exit", exit),
    ];
    for (name, callback) in functions {
        let mut function = ptr::null_mut();
        // SAFETY: `env` and `exports` are those of the current call, the name is static and NUL-terminated.
        unsafe {
            let length = name.to_bytes().len();
            let status =
                (engine.create_function)(env, name.as_ptr(), length, callback, ptr::null_mut(), &raw mut function);
            if status == 0 {
                (engine.set_named_property)(env, exports, name.as_ptr(), function);
            }
        }
    }
    exports
}
