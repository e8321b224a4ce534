//! A store of files: for one machine, or for machines that share a file system.
//!
//! A body is the file `scope/number/id`: a header of two times, then its bytes. It is written under another name first, then
//! linked or renamed, so a reader sees all of it or nothing, and of two writers that both want to be the first, one is; that holds
//! on shared file systems as well. Files have no bells: a wait looks again and again.
//!
//! Reading and writing happen within a poll, as if files never waited: in a local file system that is nearly so, and no
//! thread is needed. On one over a network each request stops its thread for a round trip.
#![allow(clippy::wildcard_enum_match_arm, reason = "enums of libraries that grow")]

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use fmi_net::{BoxFuture, Clock, Net};

use crate::address::Address;
use crate::error::{Cause, Result, StoreError};
use crate::ledger::{Ledger, Request};
use crate::name::{Name, Scope, Shelf};
use crate::patience::Patience;
use crate::seam::{Placed, Put, Store, Traits};

/// The longest body.
const BODY_BYTES_MAX: u64 = 512 << 20;
/// When it was written and when it expires, in nanoseconds since 1970.
const HEADER_BYTES: usize = 16;
/// What a name may still become: it begins with a dot, as no name does.
const UNFINISHED: &str = ".";
/// Counters lie beside bodies.
const COUNTER: &str = ".count";

/// A folder.
pub(crate) struct DirStore {
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    draw: Box<dyn Fn() -> u64 + Send + Sync>,
    traits: Traits,
    ledger: Ledger,
}

impl fmt::Debug for DirStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirStore").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl DirStore {
    /// Opens a folder, and makes it if it is not there.
    pub(crate) fn open(net: impl Net, address: Address) -> Result<Self> {
        let failed = |cause| Err(StoreError::new(address.to_string(), Request::Connect, cause));
        if address.path.is_empty() {
            return failed(Cause::Settings("the path is missing: dir:/path".into()));
        }
        let drawing = net.clone();
        let draw = Box::new(move || {
            let mut bytes = [0; 8];
            drawing.fill_entropy(&mut bytes);
            u64::from_le_bytes(bytes)
        });
        let traits = Traits {
            place: address.to_string(),
            body_bytes_max: BODY_BYTES_MAX,
            part_bytes: 1 << 20,
            at_once_max: usize::MAX,
            patience: Some(Patience { pause_min: Duration::from_millis(1), pause_max: Duration::from_millis(100) }),
            has_if_absent: true,
            has_counters: true,
            expires: true,
            deletes_used: true,
        };
        let folder = PathBuf::from(&address.path);
        let store = Self { folder, clock: Arc::new(net), draw, traits, ledger: Ledger::default() };
        // A folder that cannot be written to is found now, and not by the first message.
        let probe = store.folder.join(format!("{UNFINISHED}{:016x}", (store.draw)()));
        let tried = fs::create_dir_all(&store.folder)
            .and_then(|()| File::create_new(&probe))
            .and_then(|_| fs::remove_file(&probe));
        tried.map_or_else(|error| failed(cause(&error)), |()| Ok(store))
    }

    fn now_nanos(&self) -> u64 {
        u64::try_from(self.clock.unix_time().as_nanos()).unwrap_or(u64::MAX)
    }

    fn shelf(&self, shelf: Shelf) -> PathBuf {
        self.folder.join(shelf.to_string())
    }

    fn path(&self, name: Name) -> PathBuf {
        self.folder.join(name.to_string())
    }

    fn failed(&self, request: Request, cause: Cause) -> StoreError {
        self.traits.failed(request, cause)
    }

    /// Opens a file whose time is not over, behind its header.
    fn open_file(&self, path: &Path) -> io::Result<Option<File>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (_, expires_at) = header(&mut file)?;
        Ok((self.now_nanos() < expires_at).then_some(file))
    }

    fn read(&self, name: Name, range: Option<Range<u64>>) -> io::Result<Option<Bytes>> {
        let Some(mut file) = self.open_file(&self.path(name))? else { return Ok(None) };
        let Range { start, end } = range.unwrap_or(0..u64::MAX);
        let length = file.metadata()?.len().saturating_sub(HEADER_BYTES as u64);
        let (start, end) = (start.min(length), end.min(length));
        let wanted = end.saturating_sub(start);
        file.seek(SeekFrom::Start(HEADER_BYTES as u64 + start))?;
        let mut body = Vec::with_capacity(usize::try_from(wanted).unwrap_or(0));
        file.take(wanted).read_to_end(&mut body)?;
        Ok(Some(body.into()))
    }

    /// Reads a body, and counts that.
    fn look(&self, name: Name, range: Option<Range<u64>>) -> io::Result<Option<Bytes>> {
        let found = self.read(name, range);
        self.ledger.sent(if matches!(found, Ok(Some(_))) { Request::Get } else { Request::Miss }, 0);
        if let Ok(Some(body)) = &found {
            self.ledger.received(body.len());
        }
        found
    }

    fn write(&self, put: &Put) -> io::Result<Placed> {
        let now = self.now_nanos();
        let lives = u64::try_from(put.time_to_live.as_nanos()).unwrap_or(u64::MAX);
        let (shelf, path) = (self.shelf(put.name.shelf), self.path(put.name));
        let unfinished = shelf.join(format!("{UNFINISHED}{:016x}", (self.draw)()));
        let mut file = create(&shelf, || File::create_new(&unfinished))?;
        let written = file
            .write_all(&now.to_be_bytes())
            .and_then(|()| file.write_all(&now.saturating_add(lives).to_be_bytes()))
            .and_then(|()| file.write_all(&put.body));
        drop(file);
        let placed = written.and_then(|()| {
            if put.only_if_absent {
                self.link(put, &unfinished, &path)
            } else {
                fs::rename(&unfinished, &path).map(|()| Placed::Written)
            }
        });
        if put.only_if_absent || placed.is_err() {
            // What is left of it is harmless, and swept one day.
            let _ = fs::remove_file(&unfinished);
        }
        placed
    }

    /// Gives a file its name, unless one with this name is there whose time is not over.
    fn link(&self, put: &Put, unfinished: &Path, path: &Path) -> io::Result<Placed> {
        loop {
            match fs::hard_link(unfinished, path) {
                Ok(()) => return Ok(Placed::Written),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            match self.read(put.name, None)? {
                Some(there) if there == put.body => return Ok(Placed::Written),
                Some(there) => return Ok(Placed::Occupied(there)),
                None => self.take_away(unfinished, path)?,
            }
        }
    }

    /// Takes away a file whose time has passed. Another writer may do so at the same time, and have written anew: what was taken away
    /// then goes back.
    fn take_away(&self, unfinished: &Path, path: &Path) -> io::Result<()> {
        let away = unfinished.with_extension("over");
        match fs::rename(path, &away) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        if self.open_file(&away)?.is_some() {
            match fs::hard_link(&away, path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        fs::remove_file(&away)
    }

    /// Adds to a counter, or returns `None` if another one is at it.
    fn try_count(&self, name: Name, add: u64, time_to_live: Duration) -> io::Result<Option<u64>> {
        let path = self.path(name).with_extension(&COUNTER[1..]);
        let mut file = create(&self.shelf(name.shelf), || {
            File::options().read(true).write(true).create(true).truncate(false).open(&path)
        })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        let now = self.now_nanos();
        let lives = u64::try_from(time_to_live.as_nanos()).unwrap_or(u64::MAX);
        let mut sum = [0; 8];
        // A new file is empty, and one whose time is over counts from the start.
        if let Ok((_, expires_at)) = header(&mut file)
            && now < expires_at
        {
            file.read_exact(&mut sum)?;
        }
        let sum = u64::from_be_bytes(sum).saturating_add(add);
        let mut text = Vec::with_capacity(HEADER_BYTES + 8);
        for number in [now, now.saturating_add(lives), sum] {
            text.extend(number.to_be_bytes());
        }
        file.rewind()?;
        file.write_all(&text)?;
        Ok(Some(sum))
    }

    /// Deletes what is older than `age` on one shelf, and the shelf once it is empty.
    fn sweep_shelf(&self, shelf: &Path, age: Duration) -> io::Result<u64> {
        let oldest = u128::from(self.now_nanos()).saturating_sub(age.as_nanos());
        let mut swept = 0;
        for entry in listed(shelf)? {
            let file_name = entry.file_name();
            let is_body = !file_name.to_string_lossy().contains('.');
            let written_at = match File::open(entry.path()).and_then(|mut file| header(&mut file)) {
                Ok((written_at, _)) => u128::from(written_at),
                // Another one was faster.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                // One that is not finished may have no header yet, and the file system tells how old it is.
                Err(_) => {
                    let modified = entry.metadata()?.modified()?;
                    modified.duration_since(UNIX_EPOCH).map_or(0, |it| it.as_nanos())
                }
            };
            if written_at <= oldest && removed(fs::remove_file(entry.path()))? && is_body {
                swept += 1;
            }
        }
        // It stays if anything is in it.
        let _ = fs::remove_dir(shelf);
        Ok(swept)
    }

    fn sweep_all(&self, scope: Option<Scope>, age: Duration) -> io::Result<u64> {
        let mut swept = 0;
        for entry in listed(&self.folder)? {
            let Some(found) = Scope::parse(&entry.file_name().to_string_lossy()) else { continue };
            if scope.is_none_or(|scope| scope == found) {
                for shelf in listed(&entry.path())? {
                    swept += self.sweep_shelf(&shelf.path(), age)?;
                }
                let _ = fs::remove_dir(entry.path());
            }
        }
        Ok(swept)
    }
}

/// When it was written and when it expires.
fn header(file: &mut File) -> io::Result<(u64, u64)> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header)?;
    let [written_at, expires_at] = [0, 8].map(|at| {
        let mut number = [0; 8];
        number.copy_from_slice(&header[at..at + 8]);
        u64::from_be_bytes(number)
    });
    Ok((written_at, expires_at))
}

/// Creates a file in a folder that may not be there, or not any more.
fn create(folder: &Path, open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    const TRIES: u32 = 8;
    for _ in 0..TRIES {
        match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => fs::create_dir_all(folder)?,
            other => return other,
        }
    }
    open()
}

/// What is in a folder, if it is there.
fn listed(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether a file was removed, and not by another one.
fn removed(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn cause(error: &io::Error) -> Cause {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Cause::Denied(text),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Cause::Full(text),
        ErrorKind::NotFound | ErrorKind::NotADirectory => Cause::Missing(text),
        ErrorKind::UnexpectedEof => Cause::Garbage("a file ends within its header".into()),
        _ => Cause::Other(text),
    }
}

impl Store for DirStore {
    fn traits(&self) -> &Traits {
        &self.traits
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn put(self: Arc<Self>, put: Put) -> BoxFuture<Result<Placed>> {
        Box::pin(async move {
            self.traits.check_length(&put.body)?;
            self.ledger.sent(Request::Put, put.body.len());
            self.write(&put).map_err(|error| self.failed(Request::Put, cause(&error)))
        })
    }

    fn get(self: Arc<Self>, name: Name, range: Option<Range<u64>>) -> BoxFuture<Result<Option<Bytes>>> {
        Box::pin(async move { self.look(name, range).map_err(|error| self.failed(Request::Get, cause(&error))) })
    }

    fn wait(self: Arc<Self>, _: Shelf, names: Vec<Name>) -> BoxFuture<Result<Vec<(usize, Bytes)>>> {
        Box::pin(async move {
            let begun = self.clock.now();
            let patience = self.traits.patience.expect("files are asked again and again");
            loop {
                let mut found = Vec::new();
                for (at, name) in names.iter().enumerate() {
                    let body = self.look(*name, None).map_err(|error| self.failed(Request::Wait, cause(&error)))?;
                    found.extend(body.map(|body| (at, body)));
                }
                if !found.is_empty() {
                    return Ok(found);
                }
                let now = self.clock.now();
                self.clock.sleep_until(now + patience.pause(now - begun)).await;
            }
        })
    }

    fn ring(self: Arc<Self>, _: Vec<Shelf>) -> BoxFuture<Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn count(self: Arc<Self>, name: Name, add: u64, time_to_live: Duration) -> BoxFuture<Result<u64>> {
        Box::pin(async move {
            self.ledger.sent(Request::Count, 0);
            let begun = self.clock.now();
            let patience = self.traits.patience.expect("files are asked again and again");
            loop {
                let counted = self.try_count(name, add, time_to_live);
                match counted.map_err(|error| self.failed(Request::Count, cause(&error)))? {
                    Some(sum) => return Ok(sum),
                    None => {
                        let now = self.clock.now();
                        self.clock.sleep_until(now + patience.pause(now - begun)).await;
                    }
                }
            }
        })
    }

    fn delete(self: Arc<Self>, names: Vec<Name>) -> BoxFuture<Result<()>> {
        Box::pin(async move {
            self.ledger.sent(Request::Delete, 0);
            for name in names {
                removed(fs::remove_file(self.path(name)))
                    .map_err(|error| self.failed(Request::Delete, cause(&error)))?;
            }
            Ok(())
        })
    }

    fn sweep(self: Arc<Self>, scope: Option<Scope>, age: Duration) -> BoxFuture<Result<u64>> {
        Box::pin(async move {
            self.ledger.sent(Request::List, 0);
            self.sweep_all(scope, age).map_err(|error| self.failed(Request::List, cause(&error)))
        })
    }
}
