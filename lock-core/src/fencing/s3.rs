//! Fenced writes to S3: conditional puts.
//!
//! S3 compares no numbers. What it can refuse is a `PutObject` for a key that exists (`If-None-Match: *`), or whose object is not
//! the one that the client has seen (`If-Match: ETAG`). So the client reads the object's token with a `HeadObject`, compares, and puts on the condition
//! that the object is still that one: [`Put::over`]. Refused with 412, or with 409 while another conditional write was under way, it begins again.
//!
//! **An `ETag` says nothing of an object's metadata.** Of an object that is put in one piece without KMS it is the MD5 of its bytes: when two holders write
//! the same bytes, an old holder's condition holds for the newer object, too. So the token belongs into the *body* as well, as in
//! [`Pointer::body`]: a small object that names the real one, whose key has the token in it and is never written twice ([`Put::new_object`]).

use crate::{fencing::Stale, types::FencingToken};

/// The metadata in which an object keeps the token of its writer.
pub const METADATA: &str = "x-amz-meta-fencing-token";

/// What `HeadObject` says of the object that is to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its `ETag`, quotes and all.
    pub etag: String,
    /// Its [`METADATA`], read as a number. `None` where nobody who held the lock has written it.
    pub token: Option<FencingToken>,
}

/// The headers of a `PutObject` that S3 refuses when the object is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Name and value of each.
    pub headers: Vec<(&'static str, String)>,
}

impl Put {
    /// Replaces the object that was seen, or makes the first one. The new body has to differ from that of every other token; see the
    /// [module](self).
    ///
    /// # Errors
    /// [`Stale`] when a later holder has written the object.
    pub fn over(seen: Option<&Seen>, token: FencingToken) -> Result<Self, Stale> {
        let condition = match seen {
            None => ("If-None-Match", "*".to_owned()),
            Some(Seen { token: Some(seen), .. }) if *seen > token => return Err(Stale { token, seen: *seen }),
            Some(seen) => ("If-Match", seen.etag.clone()),
        };
        Ok(Self { headers: vec![condition, (METADATA, token.to_string())] })
    }

    /// Makes an object that must not exist yet, such as [`Pointer::object`].
    pub fn new_object(token: FencingToken) -> Self {
        Self { headers: vec![("If-None-Match", "*".into()), (METADATA, token.to_string())] }
    }
}

/// Where the current object is: what is stored under the key that everybody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// Of the holder that wrote the object.
    pub token: FencingToken,
    /// The object's key, which no other holder writes to.
    pub object: String,
}

impl Pointer {
    /// The pointer to the `part`-th object that the holder of `token` makes for `key`. Keys sort by token.
    pub fn new(key: &str, token: FencingToken, part: u64) -> Self {
        Self { token, object: format!("{key}.{:016}.{part:08}", token.get()) }
    }

    /// The pointer's body: different for every token and part, so that its `ETag` is.
    pub fn body(&self) -> String {
        format!("{} {}\n", self.token, self.object)
    }

    /// Reads a body. `None` when it is none.
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

    /// One key of a bucket, as the documentation of `PutObject` has it: the `ETag` is of the body alone.
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
    fn an_old_holder_is_refused_whether_it_looked_before_or_after_the_new_one_wrote() {
        let mut bucket = Bucket::default();
        let write = |token| Pointer::new("report", token, 0).body();
        assert_eq!(bucket.put(&Put::over(None, token(1)).unwrap(), &write(token(1))), 200);
        // The old holder looks, and is frozen before it puts.
        let late = Put::over(bucket.head().as_ref(), token(1)).unwrap();
        let first = Put::over(bucket.head().as_ref(), token(2)).unwrap();
        assert_eq!(bucket.put(&first, &write(token(2))), 200);
        assert_eq!(bucket.put(&late, &write(token(1))), 412);
        let stale = Put::over(bucket.head().as_ref(), token(1)).unwrap_err();
        assert_eq!(stale, Stale { token: token(1), seen: token(2) });
        assert!(Put::over(bucket.head().as_ref(), token(2)).is_ok(), "a holder writes many times");
        assert_eq!(bucket.put(&Put::new_object(token(3)), "x"), 412, "never over another");
    }

    /// Why the body has to have the token in it.
    #[test]
    fn the_same_bytes_deceive_the_condition() {
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
