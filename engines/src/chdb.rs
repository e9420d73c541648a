//! The one foreign function: a ClickHouse server that comes as a library.

#![allow(unsafe_code)] // dlopen and one call; argued below.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

/// How long the server may take to end after its input has.
const END_WITHIN: Duration = Duration::from_secs(15);

/// `chdb_query_cmdline` of libchdb: runs `clickhouse local` with these
/// arguments and returns when its query has ended.
type QueryCommandLine = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut c_void;

/// Serves until standard input closes. Called in a process of its own.
pub(crate) fn serve(library: &Path, arguments: &[String]) -> ExitCode {
    let arguments: Result<Vec<CString>, _> = arguments
        .iter()
        .map(|argument| CString::new(argument.as_str()))
        .collect();
    let Ok(arguments) = arguments else {
        return ExitCode::FAILURE;
    };
    let Ok(count) = c_int::try_from(arguments.len()) else {
        return ExitCode::FAILURE;
    };
    let mut pointers: Vec<*mut c_char> = arguments
        .iter()
        .map(|argument| argument.as_ptr().cast_mut())
        .collect();
    pointers.push(std::ptr::null_mut());
    // SAFETY: the file was verified against its digest when it was fetched, and
    // its initialisers are those of the ClickHouse server. This process exists
    // to run them and does nothing else.
    let Ok(library) = (unsafe { libloading::Library::new(library) }) else {
        eprintln!("{} cannot be loaded", library.display());
        return ExitCode::FAILURE;
    };
    // SAFETY: the symbol has this signature in the pinned version: an argument
    // count, a vector of C strings, a result that is allocated by the library.
    let query = unsafe { library.get::<QueryCommandLine>(b"chdb_query_cmdline\0") };
    let Ok(query) = query else {
        return ExitCode::FAILURE;
    };
    std::thread::spawn(end_soon_after_input);
    // SAFETY: the vector holds `arguments.len()` valid, NUL-terminated strings
    // followed by a null pointer, like `argv`, and outlives the call. The
    // result is not read; the process ends with it.
    let result = unsafe { query(count, pointers.as_mut_ptr()) };
    if result.is_null() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// A server that does not end with its input must not outlive its starter.
fn end_soon_after_input() {
    let input = std::io::stdin();
    // Waits for the other end to close; the server reads what comes.
    let mut ends = [PollFd::new(&input, PollFlags::empty())];
    while matches!(poll(&mut ends, None), Ok(0) | Err(rustix::io::Errno::INTR)) {}
    std::thread::sleep(END_WITHIN);
    std::process::exit(1);
}
