//! Checks whether a Redis is fit for locks, by what the server reports about itself.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use lock_core::{Error, ErrorKind, backend::Finding};
use redis::Value;

use crate::{
    config::{Address, DEFAULT_TTL, RedisConfig, Topology},
    connect::Connector,
    connection::ConnectionSlot,
    deployment::Deployment,
    quorum::Quorum,
};

/// The part of maxmemory above which the server will soon refuse locks.
const NEARLY_FULL: f64 = 0.9;

/// Examines one server, the primary behind sentinels, or a cluster.
pub(crate) async fn examine_deployment(config: &RedisConfig, deployment: &Deployment) -> Vec<Finding> {
    match &config.topology {
        Topology::Cluster(_) => examine_cluster(config, deployment).await,
        Topology::Sentinel { sentinels, service } => {
            let mut findings = examine_server(config, &deployment.connection, None).await;
            findings.extend(examine_sentinels(config, sentinels, service).await);
            findings
        }
        _ => examine_server(config, &deployment.connection, None).await,
    }
}

/// Examines each server of a quorum.
pub(crate) async fn examine_quorum(config: &RedisConfig, quorum: &Quorum) -> Vec<Finding> {
    let Topology::Quorum(addresses) = &config.topology else { return Vec::new() };
    let each = addresses.iter().zip(quorum.servers()).map(|(address, server)| async move {
        about(&address.to_string(), examine_server(config, &server.deployment.connection, None).await)
    });
    let mut findings = join_all(each).await.concat();
    for (address, lacking) in addresses.iter().zip(quorum.lacking().await) {
        let subject = format!("{address} locks");
        findings.extend(lacking.map(|lacking| {
            match lacking {
                0 => Finding::good(subject, "the server has all locks that a majority has"),
                lacking => {
                    Finding::warning(subject, format!("the server lacks {lacking} of the locks that a majority has"))
                        .advice(
                            "examine again after the next renewals, which repair it, before another server restarts",
                        )
                }
            }
        }));
    }
    findings
}

async fn examine_cluster(config: &RedisConfig, deployment: &Deployment) -> Vec<Finding> {
    let primaries = match deployment.primaries().await {
        Ok(primaries) => primaries,
        Err(error) => return vec![unanswered("cluster", &error, "+cluster|slots")],
    };
    let state = match ask(&deployment.connection, &["CLUSTER", "INFO"], primaries.first()).await {
        Ok(text) if field(&text, "cluster_state") == Some("ok") => Finding::good("cluster", "all slots are served"),
        Ok(_) => Finding::warning("cluster", "some slots have no primary: locks in them cannot be acquired")
            .advice("check CLUSTER INFO and CLUSTER NODES"),
        Err(error) => unanswered("cluster", &error, "+cluster|info"),
    };
    let each = primaries.iter().map(|primary| async move {
        let (host, port) = primary;
        about(&format!("{host}:{port}"), examine_server(config, &deployment.connection, Some(primary)).await)
    });
    let mut findings = vec![state];
    findings.extend(join_all(each).await.concat());
    findings
}

fn about(server: &str, findings: Vec<Finding>) -> Vec<Finding> {
    findings.into_iter().map(|found| Finding { subject: format!("{server} {}", found.subject), ..found }).collect()
}

async fn examine_server(
    config: &RedisConfig,
    connection: &ConnectionSlot,
    node: Option<&(String, u16)>,
) -> Vec<Finding> {
    let mut findings = match ask(connection, &["INFO"], node).await {
        Ok(info) => judge_info(config, &info),
        Err(error) => return vec![unanswered("server", &error, "+info")],
    };
    findings.extend(clock(connection, node).await);
    findings.extend(user(connection, node).await);
    findings
}

/// Judges version, memory, persistence, replicas and cluster by the reply to `INFO`.
fn judge_info(config: &RedisConfig, info: &str) -> Vec<Finding> {
    let version = field(info, "valkey_version").map(|version| ("Valkey", version));
    let (product, version) = version.or(field(info, "redis_version").map(|v| ("Redis", v))).unwrap_or(("Redis", "?"));
    let mut findings = vec![Finding::good("server version", format!("{product} {version}"))];
    findings.extend(memory(info));
    findings.push(match field(info, "aof_enabled") {
        Some("1") => Finding::good(
            "persistence",
            "writes are logged (appendonly): a restart loses only the last of \
            them",
        ),
        _ => Finding::note(
            "persistence",
            "writes are not logged: a restart loses held locks, and other clients may acquire them before the \
             holders notice",
        )
        .advice("set appendonly to yes, or have the protected resource compare tokens"),
    });
    findings.extend(replication(config, info));
    // Not redis_mode, which is server_mode on Valkey.
    if field(info, "cluster_enabled") == Some("1") && !matches!(config.topology, Topology::Cluster(_)) {
        let text = "this server is a cluster node: most lock names belong to other nodes and cannot be locked here";
        findings.push(Finding::unfit("cluster", text).advice("use redis+cluster://"));
    }
    findings
}

fn memory(info: &str) -> Option<Finding> {
    let policy = field(info, "maxmemory_policy")?;
    let number = |name| field(info, name).and_then(|text| text.parse::<f64>().ok());
    let limit = number("maxmemory").unwrap_or_default();
    let advice = "set maxmemory-policy to noeviction";
    Some(match (policy, limit > 0.0) {
        ("noeviction", true) if number("used_memory").unwrap_or_default() > limit * NEARLY_FULL => {
            Finding::warning("maxmemory", "memory is nearly full: Redis will soon refuse locks")
                .advice("raise maxmemory")
        }
        ("noeviction", _) => Finding::good("maxmemory-policy", "noeviction: locks are never deleted to free memory"),
        (_, true) => Finding::unfit("maxmemory-policy", format!("{policy}: the server may delete a lock that is held"))
            .advice(advice),
        (_, false) => Finding::warning(
            "maxmemory-policy",
            format!("{policy}: once maxmemory is set, the server may delete a lock that is held"),
        )
        .advice(advice),
    })
}

fn replication(config: &RedisConfig, info: &str) -> Option<Finding> {
    if field(info, "role") == Some("slave") {
        let text = "this server is a read-only replica";
        return Some(
            Finding::unfit("replicas", text).advice("connect to the primary, or use redis+sentinel:// to find it"),
        );
    }
    let connected: u32 = field(info, "connected_slaves")?.parse().ok()?;
    let wanted = config.replicas;
    Some(match (connected, wanted) {
        (0, 0) => Finding::note("replicas", "none: no failover is possible, so none can lose a lock"),
        (_, 0) => Finding::warning(
            "replicas",
            format!("{connected} connected, none confirms locks: after a failover a lock may have two holders"),
        )
        .advice("add replicas=1 to the config string, or have the protected resource compare tokens"),
        _ if connected < wanted => Finding::unfit(
            "replicas",
            format!("replicas={wanted}, but only {connected} connected: no lock can be acquired"),
        )
        .advice("check INFO replication, or lower the option replicas"),
        _ => Finding::good("replicas", format!("{connected} connected, {wanted} of them confirm every lock")),
    })
}

/// Measures the difference between the server's clock and this machine's. Leases use only the
/// server's clock, so this is informational.
async fn clock(connection: &ConnectionSlot, node: Option<&(String, u16)>) -> Option<Finding> {
    let asked = SystemTime::now();
    let answer = query(connection, &["TIME"], node).await.ok()?;
    let round_trip = asked.elapsed().unwrap_or_default();
    let Value::Array(parts) = answer else { return None };
    let [seconds, micros] = [text(parts.first()?)?.parse().ok()?, text(parts.get(1)?)?.parse::<u64>().ok()?];
    let theirs = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros);
    let ours = asked + round_trip / 2;
    let (behind, apart) = match theirs.duration_since(ours) {
        Ok(ahead) => (false, ahead),
        Err(behind) => (true, behind.duration()),
    };
    let shown = format!("{:.1} s {} this machine", apart.as_secs_f64(), if behind { "behind" } else { "ahead of" });
    Some(if apart <= Duration::from_secs(1) + round_trip {
        Finding::good("clock", shown)
    } else {
        Finding::note(
            "clock",
            format!("{shown}; leases use only the server's clock, and records show times of that clock"),
        )
        .advice("synchronise both clocks")
    })
}

/// Checks whether the locks have a separate user.
async fn user(connection: &ConnectionSlot, node: Option<&(String, u16)>) -> Option<Finding> {
    // A user that may not run ACL WHOAMI has few rights, as recommended.
    let name =
        query(connection, &["ACL", "WHOAMI"], node).await.ok().and_then(|answer| text(&answer).map(str::to_owned))?;
    Some(match name.as_str() {
        "default" => Finding::note(
            "user",
            "this client uses the user \"default\", which may run every command unless restricted",
        )
        .advice(
            "give locks a separate user, with the rules under \"Rights of the Redis user\" in the README of lock-redis",
        ),
        name => Finding::good("user", format!("this client uses the user \"{}\"", name.escape_debug())),
    })
}

/// Examines how the sentinels will fail over.
async fn examine_sentinels(config: &RedisConfig, sentinels: &[Address], service: &str) -> Vec<Finding> {
    let asked = join_all(sentinels.iter().map(|address| ask_sentinel(config, address, service))).await;
    let mut findings = Vec::new();
    let silent: Vec<_> = asked.iter().zip(sentinels).filter(|(answer, _)| answer.is_err()).collect();
    for (answer, address) in &silent {
        let error = answer.as_ref().expect_err("only those were kept");
        findings.push(unanswered(&format!("sentinel {address}"), error, "+sentinel|master"));
    }
    let Some(state) = asked.iter().find_map(|answer| answer.as_ref().ok()) else { return findings };
    let number =
        |name: &str| state.chunks_exact(2).find(|pair| pair[0] == name).and_then(|pair| pair[1].parse::<u64>().ok());
    let down_after = Duration::from_millis(number("down-after-milliseconds").unwrap_or_default());
    let text =
        format!("a failover starts {down_after:?} after the primary fails: locks with a shorter ttl expire during it");
    // With slower sentinels every lock of the default ttl expires during a failover.
    findings.push(if down_after < DEFAULT_TTL {
        Finding::note("down-after-milliseconds", text)
    } else {
        Finding::warning("down-after-milliseconds", text).advice("set it to a third of the shortest ttl")
    });
    let all = number("num-other-sentinels").unwrap_or_default() + 1;
    findings.push(if all < 3 {
        Finding::warning(
            "sentinels",
            format!("only {all}: if one fails together with the primary, the rest cannot start a failover"),
        )
        .advice("run three, on separate machines")
    } else {
        Finding::good("sentinels", format!("{all}, with a quorum of {}", number("quorum").unwrap_or_default()))
    });
    findings
}

/// Asks one sentinel about the primary. Returns alternating names and values.
async fn ask_sentinel(config: &RedisConfig, address: &Address, service: &str) -> Result<Vec<String>, Error> {
    let config = RedisConfig {
        topology: Topology::Standalone(address.clone()),
        user: config.sentinel_user.clone(),
        password: config.sentinel_password.clone(),
        database: 0,
        ..config.clone()
    };
    let connection = ConnectionSlot::new(Connector::node(&config, address)?, config.connect_timeout, config.timeout);
    let answer = query(&connection, &["SENTINEL", "MASTER", service], None).await?;
    let items = match answer {
        Value::Array(items) => items,
        Value::Map(pairs) => pairs.into_iter().flat_map(|(name, value)| [name, value]).collect(),
        _ => Vec::new(),
    };
    Ok(items.iter().map(|item| text(item).unwrap_or_default().to_owned()).collect())
}

async fn query(connection: &ConnectionSlot, words: &[&str], node: Option<&(String, u16)>) -> Result<Value, Error> {
    let mut command = redis::cmd(words[0]);
    words[1..].iter().for_each(|word| {
        command.arg(word);
    });
    connection.command(&command, node).await
}

async fn ask(connection: &ConnectionSlot, words: &[&str], node: Option<&(String, u16)>) -> Result<String, Error> {
    let answer = query(connection, words, node).await?;
    Ok(text(&answer).unwrap_or_default().to_owned())
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The finding for a failed question: the user lacks a right that locks do not need, or the server
/// does not answer.
fn unanswered(subject: &str, error: &Error, right: &str) -> Finding {
    if error.kind() == ErrorKind::PermissionDenied {
        return Finding::note(subject, "not examined: the Redis user lacks the permission")
            .advice(format!("grant the user {right} for the examination"));
    }
    Finding::warning(subject, format!("not examined: {error}"))
}

#[cfg(test)]
mod tests {
    use lock_core::backend::Level;

    use super::*;

    fn found(config: &RedisConfig, info: &str, subject: &str) -> (Level, String) {
        let findings = judge_info(config, info);
        let finding = findings.into_iter().find(|finding| finding.subject == subject);
        finding.map(|finding| (finding.level, finding.text)).unwrap_or_else(|| panic!("nothing on {subject}"))
    }

    #[test]
    fn eviction_policies_are_unfit_once_maxmemory_is_set() {
        let config = RedisConfig::standalone(Address::tcp("h", 1));
        for (policy, limit, used, level) in [
            ("noeviction", 0, 5, Level::Good),
            ("noeviction", 100, 5, Level::Good),
            ("allkeys-lru", 0, 5, Level::Warning),
            ("allkeys-lru", 100, 5, Level::Unfit),
            ("volatile-ttl", 100, 5, Level::Unfit),
        ] {
            let info = format!("used_memory:{used}\r\nmaxmemory:{limit}\r\nmaxmemory_policy:{policy}\r\n");
            assert_eq!(found(&config, &info, "maxmemory-policy").0, level, "{policy} {limit}");
        }
        let full = "used_memory:95\r\nmaxmemory:100\r\nmaxmemory_policy:noeviction\r\n";
        assert_eq!(found(&config, full, "maxmemory").0, Level::Warning);
    }

    #[test]
    fn replicas_are_judged_by_the_configured_number() {
        let config = |number| RedisConfig::standalone(Address::tcp("h", 1)).replicas(number);
        for (info, wanted, level) in [
            ("role:master\r\nconnected_slaves:0\r\n", 0, Level::Note),
            ("role:master\r\nconnected_slaves:2\r\n", 0, Level::Warning),
            ("role:master\r\nconnected_slaves:2\r\n", 1, Level::Good),
            ("role:master\r\nconnected_slaves:0\r\n", 1, Level::Unfit),
            ("role:slave\r\nconnected_slaves:0\r\n", 0, Level::Unfit),
        ] {
            assert_eq!(found(&config(wanted), info, "replicas").0, level, "{info} {wanted}");
        }
    }
}
