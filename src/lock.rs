//! stub
use crate::clock::Timestamp; use crate::digest::Digest; use crate::platform::Platform; use crate::reference::Reference;
use crate::problem::Problem; use std::path::Path; use crate::record::RecordError;
pub const FILE_NAME: &str = "igraph.lock";
#[derive(Clone, Debug)]
pub struct LockEntry { pub reference: Reference, pub platform: Platform, pub index: Option<Digest>, pub manifest: Digest, pub config: Digest, pub at: Timestamp }
pub struct LockFile(std::sync::Mutex<Vec<LockEntry>>);
impl LockFile { pub fn entry(&self, r:&Reference,p:&Platform)->Option<LockEntry>{ self.0.lock().unwrap().iter().find(|e| e.reference==*r && e.platform==*p).cloned() }
 pub fn read(_p:&Path)->Result<Self,Vec<Problem>>{Ok(Self(Default::default()))}
 pub fn insert(&self,e:LockEntry)->Result<(),RecordError>{ self.insert_all(vec![e]) }
 pub fn insert_all(&self,e:Vec<LockEntry>)->Result<(),RecordError>{ self.0.lock().unwrap().extend(e); Ok(()) } }
