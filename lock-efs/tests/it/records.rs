//! Absent, torn, foreign and huge records never decide which client holds a lock.

use std::{fs, time::Duration};

use crate::fixture::{grant, name, open, refused, request, token};
use lock_core::{
    Holder,
    backend::{Admin, Backend, ProcessBound, Release},
};
use test_support::wait_for;

#[tokio::test]
async fn a_bad_record_hides_the_holder_but_not_the_lock() {
    let (dir, backend) = open();
    let (_, lease) = grant(&backend, &request("etl")).await;
    let record = dir.path().join("etl.info");
    let whole = fs::read(&record).unwrap();
    for bad in [&whole[..60], &whole[..10], &whole[..3], &[0; 4096], b"4711\n", &vec![b'x'; 2_000_000]] {
        fs::write(&record, bad).unwrap();
        assert_eq!(refused(&backend, "etl").await, Holder::default());
        assert_eq!(backend.inspect(&name("etl")).await.unwrap(), Some(Holder::default()));
    }
    fs::write(&record, "").unwrap();
    assert!(refused(&backend, "etl").await.foreign.is_some_and(|f| f.contains("without a record")));
    fs::remove_file(&record).unwrap();
    assert!(refused(&backend, "etl").await.foreign.is_some_and(|f| f.contains("without a record")));
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
}

#[tokio::test]
async fn tokens_rise_after_the_record_is_lost_or_destroyed() {
    let (dir, backend) = open();
    let record = dir.path().join("etl.info");
    let mut last = None;
    let long = [&b"onelock/1 held "[..], &[0xff; 300_000]].concat();
    for bad in [None, Some(&b""[..]), Some(b"onelo"), Some(b"onelock/7 garbage"), Some(&long)] {
        let (granted, lease) = grant(&backend, &request("etl")).await;
        assert!(granted.token > last && granted.crashed.is_none());
        last = granted.token;
        assert!(backend.release_now(&lease, Duration::ZERO));
        match bad {
            None => fs::remove_file(&record).unwrap(),
            Some(bytes) => fs::write(&record, bytes).unwrap(),
        }
    }
}

#[tokio::test]
async fn a_token_from_a_clock_that_ran_ahead_is_exceeded() {
    let (dir, backend) = open();
    let (granted, lease) = grant(&backend, &request("etl")).await;
    assert!(backend.release_now(&lease, Duration::ZERO));
    let record = dir.path().join("etl.info");
    let ahead = token(&granted).get() + 3_600_000_000;
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace(&format!("\"token\":{}", token(&granted)), &format!("\"token\":{ahead}"))).unwrap();
    assert_eq!(token(&grant(&backend, &request("etl")).await.0).get(), ahead + 1);
}

#[tokio::test]
async fn a_record_of_any_length_is_replaced_whole() {
    let (_dir, backend) = open();
    for size in [10, 100_000, 10, 5_000, 0, 20_000] {
        let mine = request("etl").with_data(vec![b'd'; size]);
        let (_, lease) = grant(&backend, &mine).await;
        assert_eq!(refused(&backend, "etl").await.data.map(|d| d.len()), Some(size));
        assert!(backend.release_now(&lease, Duration::ZERO));
    }
}

/// On NFS the late record of an earlier client can replace it.
#[tokio::test]
async fn a_minimum_hold_survives_the_loss_of_its_record() {
    const HOUR: Duration = Duration::from_secs(3_600);
    for replaced in [false, true] {
        let (dir, backend) = open();
        let record = dir.path().join("etl.info");
        let (_, lease) = grant(&backend, &request("etl")).await;
        assert!(backend.release_now(&lease, Duration::ZERO));
        let earlier = fs::read(&record).unwrap();
        let (granted, lease) = grant(&backend, &request("etl").with_owner("etl-7")).await;
        fs::remove_file(&record).unwrap();
        if replaced {
            fs::write(&record, &earlier).unwrap();
        }
        assert_eq!(backend.release(&lease, HOUR).await.unwrap(), Release::Released);
        let holder = refused(&backend, "etl").await;
        assert_eq!((holder.owner.as_deref(), holder.token), (Some("etl-7"), granted.token), "replaced: {replaced}");
        assert!(holder.expires_in.is_some());
    }
}

/// While holders change, a reader sees the whole record of the last holder or of the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_whole_records_while_holders_change() {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    };
    let (dir, backend) = open();
    let backend = Arc::new(backend);
    let stop = Arc::new(AtomicBool::new(false));
    let (writer, stopped) = (Arc::clone(&backend), Arc::clone(&stop));
    let holders = tokio::spawn(async move {
        while !stopped.load(Relaxed) {
            let (_, lease) = grant(&writer, &request("etl")).await;
            assert!(writer.release_now(&lease, Duration::ZERO));
            tokio::task::yield_now().await;
        }
    });
    let record = dir.path().join("etl.info");
    assert!(wait_for("the first record", || record.exists()));
    let is_whole = |text: String| text.starts_with("onelock/1 ") && text.trim_end().ends_with('}');
    let whole = (0..20_000).filter(|_| fs::read_to_string(&record).is_ok_and(is_whole)).count();
    stop.store(true, Relaxed);
    holders.await.unwrap();
    assert_eq!(whole, 20_000);
}
