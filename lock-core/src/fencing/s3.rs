//! Fenced writes to S3: conditional puts.
//!
//! S3 cannot compare numbers. It can refuse a `PutObject` if the key exists (`If-None-Match: *`),
//! or if the object is not the one that the client has read (`If-Match: ETAG`). So a write has
//! these steps:
//!
//! 1. Read the object's token with `HeadObject`, and compare it.
//! 2. Put the new object, on the condition that the old one has not changed: [`Put::over`].
//! 3. If S3 refuses with 412, or with 409 because of a concurrent conditional write, start again.
//!
//! **An `ETag` does not cover the metadata of an object.** For an object that is put in one piece
//! without KMS it is the MD5 of the bytes. If two holders write the same bytes, the condition of
//! the old holder is also true for the newer object. So the *body* has to contain the token as
//! well, as in [`Pointer::body`]. That is a small object that names the real one, whose key
//! contains the token and is never written twice ([`Put::new_object`]).

use crate::{fencing::Stale, types::FencingToken};

/// The metadata header with the token of an object's writer.
pub const METADATA: &str = "x-amz-meta-fencing-token";

/// The result of `HeadObject` for the object to replace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The `ETag`, including its quotes.
    pub etag: String,
    /// The value of [`METADATA`] as a token. `None` if the object was not written under the lock.
    pub token: Option<FencingToken>,
}

/// The headers of a `PutObject` that S3 refuses if the object has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The names and values of the headers.
    pub headers: Vec<(&'static str, String)>,
}

impl Put {
    /// Returns the headers that replace the `seen` object, or that create the first one. The new
    /// body has to differ from the bodies of all other tokens; see the [module](self).
    ///
    /// # Errors
    /// [`Stale`] if a later holder has written the object.
    pub fn over(seen: Option<&Seen>, token: FencingToken) -> Result<Self, Stale> {
        let condition = match seen {
            None => ("If-None-Match", "*".to_owned()),
            Some(Seen { token: Some(seen), .. }) if *seen > token => return Err(Stale { token, seen: *seen }),
            Some(seen) => ("If-Match", seen.etag.clone()),
        };
        Ok(Self { headers: vec![condition, (METADATA, token.to_string())] })
    }

    /// Returns the headers that create an object that must not exist yet, such as
    /// [`Pointer::object`].
    pub fn new_object(token: FencingToken) -> Self {
        Self { headers: vec![("If-None-Match", "*".into()), (METADATA, token.to_string())] }
    }
}

/// The location of the current object, which is stored under the well-known key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// The token of the holder that wrote the object.
    pub token: FencingToken,
    /// The object's key, to which no other holder writes.
    pub object: String,
}

impl Pointer {
    /// Creates the pointer to the object number `part` that the holder with `token` writes for
    /// `key`. Keys sort by token.
    pub fn new(key: &str, token: FencingToken, part: u64) -> Self {
        Self { token, object: format!("{key}.{:016}.{part:08}", token.get()) }
    }

    /// Returns the body of the pointer. It differs for every token and part, and so does its
    /// `ETag`.
    pub fn body(&self) -> String {
        format!("{} {}\n", self.token, self.object)
    }

    /// Parses the body of a pointer. Returns `None` if it is not valid.
    pub fn parse(body: &str) -> Option<Self> {
        let (token, object) = body.strip_suffix('\n')?.split_once(' ')?;
        Some(Self { token: FencingToken::new(token.parse().ok()?)?, object: object.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};

    use super::*;

    fn token(token: u64) -> FencingToken {
        FencingToken::new(token).unwrap()
    }

    /// A bucket with one key, as in the documentation of `PutObject`: the `ETag` is of the body
    /// alone.
    #[derive(Default)]
    struct Bucket(Option<(String, Vec<(&'static str, String)>)>);

    impl Bucket {
        fn etag(body: &str) -> String {
            let mut hasher = DefaultHasher::new();
            body.hash(&mut hasher);
            format!("\"{:x}\"", hasher.finish())
        }

        fn head(&self) -> Option<Seen> {
            let (body, headers) = self.0.as_ref()?;
            let token = headers.iter().find(|(name, _)| *name == METADATA)?.1.parse().ok()?;
            Some(Seen { etag: Self::etag(body), token: FencingToken::new(token) })
        }

        fn put(&mut self, put: &Put, body: &str) -> u16 {
            let etag = self.0.as_ref().map(|(body, _)| Self::etag(body));
            for (name, value) in &put.headers {
                let holds = match *name {
                    "If-None-Match" => etag.is_none(),
                    "If-Match" => etag.as_ref() == Some(value),
                    _ => true,
                };
                if !holds {
                    return 412;
                }
            }
            self.0 = Some((body.to_owned(), put.headers.clone()));
            200
        }
    }

    #[test]
    fn old_holder_is_refused_before_and_after_it_reads() {
        let mut bucket = Bucket::default();
        let write = |token| Pointer::new("report", token, 0).body();
        assert_eq!(bucket.put(&Put::over(None, token(1)).unwrap(), &write(token(1))), 200);
        // The old holder reads, and is frozen before its put.
        let late = Put::over(bucket.head().as_ref(), token(1)).unwrap();
        let first = Put::over(bucket.head().as_ref(), token(2)).unwrap();
        assert_eq!(bucket.put(&first, &write(token(2))), 200);
        assert_eq!(bucket.put(&late, &write(token(1))), 412);
        let stale = Put::over(bucket.head().as_ref(), token(1)).unwrap_err();
        assert_eq!(stale, Stale { token: token(1), seen: token(2) });
        assert!(Put::over(bucket.head().as_ref(), token(2)).is_ok(), "a holder writes many times");
        assert_eq!(bucket.put(&Put::new_object(token(3)), "x"), 412, "never replaces an object");
    }

    /// Shows why the body has to contain the token.
    #[test]
    fn equal_bytes_make_a_stale_condition_hold() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.put(&Put::over(None, token(1)).unwrap(), "same"), 200);
        let late = Put::over(bucket.head().as_ref(), token(1)).unwrap();
        assert_eq!(bucket.put(&Put::over(bucket.head().as_ref(), token(2)).unwrap(), "same"), 200);
        assert_eq!(bucket.put(&late, "late"), 200, "the ETag is the same");
    }

    #[test]
    fn pointers_read_back_and_sort_by_token() {
        let (a, b) = (Pointer::new("a key", token(9), 3), Pointer::new("a key", token(10), 0));
        assert!(a.object < b.object);
        for pointer in [a, b] {
            assert_eq!(Pointer::parse(&pointer.body()), Some(pointer));
        }
        assert_eq!(Pointer::parse("1"), None);
    }
}
