//! The options that every store has.

use super::{StoreConfig, duration, suggest::did_you_mean};
use crate::{
    backend::Capability,
    locker::LockerBuilder,
    types::{Error, LockOptions, MAX_HAND_OVER, Renew},
};

/// The options that every store has, as values of the core.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Common {
    options: LockOptions,
    prefix: String,
    require: Vec<Capability>,
}

impl Common {
    /// The names of these options.
    #[cfg(any(test, feature = "serde"))]
    pub(crate) const NAMES: [&str; 12] = [
        "ttl",
        "margin",
        "renew",
        "grace",
        "owner",
        "prefix",
        "min_hold",
        "max_hold",
        "hand_over",
        "fair",
        "spread",
        "require",
    ];

    /// Takes these options out of `config`.
    pub(crate) fn take(config: &mut StoreConfig) -> Result<Self, Error> {
        let options = LockOptions {
            ttl: config.take_duration("ttl")?,
            margin: config.take_duration("margin")?,
            renew: config.take_with("renew", parse_renew)?.unwrap_or_default(),
            grace: config.take_duration("grace")?.unwrap_or_default(),
            owner: config.take_string("owner"),
            min_hold: config.take_duration("min_hold")?.unwrap_or_default(),
            max_hold: config.take_duration("max_hold")?,
            hand_over: take_hand_over(config)?,
            fair: config.take_bool("fair")?.unwrap_or_default(),
            spread: config.take_duration("spread")?.unwrap_or_default(),
            ..LockOptions::default()
        };
        Ok(Self {
            options,
            prefix: config.take_string("prefix").unwrap_or_default(),
            require: config.take_with("require", parse_require)?.unwrap_or_default(),
        })
    }

    pub(crate) fn apply(self, builder: LockerBuilder) -> LockerBuilder {
        let builder = builder.options(self.options).prefix(self.prefix);
        self.require.into_iter().fold(builder, LockerBuilder::require)
    }
}

impl StoreConfig {
    /// Checks and removes the options that every store has, for programs that use the store without
    /// locking.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`](crate::ErrorKind::Config) if one of them is invalid.
    pub fn set_common_aside(&mut self) -> Result<(), Error> {
        Common::take(self).map(drop)
    }
}

fn take_hand_over(config: &mut StoreConfig) -> Result<u32, Error> {
    let times = config.take_u64("hand_over", 0..=MAX_HAND_OVER.into())?.unwrap_or_default();
    Ok(u32::try_from(times).expect("the range fits"))
}

fn parse_renew(text: &str) -> Result<Renew, String> {
    match text {
        "auto" => Ok(Renew::Auto),
        "manual" => Ok(Renew::Manual),
        _ => duration::parse(text).map(Renew::Every).map_err(|problem| {
            let near = did_you_mean(text, ["auto", "manual"]);
            if near.is_empty() { problem } else { format!("must be auto, manual or a duration such as 10s{near}") }
        }),
    }
}

fn parse_require(text: &str) -> Result<Vec<Capability>, String> {
    let parse = |word: &str| {
        word.parse().map_err(|error| {
            let near = did_you_mean(word, Capability::ALL.iter().map(|c| c.as_str()));
            format!("is wrong: {error}{near}")
        })
    };
    text.split(',').map(parse).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{config::ConfigString, types::Mode};

    fn take(options: &str) -> Result<Common, String> {
        let config = ConfigString::parse(&format!("x:?{options}")).unwrap();
        Common::take(&mut config.into()).map_err(|e| e.to_string())
    }

    #[test]
    fn every_common_option_sets_its_field() {
        let common = take(
            "ttl=20s&margin=2s&renew=5s&grace=1s&owner=me%20%26%20you&min_hold=3s&max_hold=1h&hand_over=9&fair=true&\
             spread=2s&prefix=app/&require=fencing,holder",
        );
        let options = LockOptions {
            mode: Mode::Exclusive,
            ttl: Some(Duration::from_secs(20)),
            margin: Some(Duration::from_secs(2)),
            renew: Renew::Every(Duration::from_secs(5)),
            grace: Duration::from_secs(1),
            owner: Some("me & you".into()),
            data: None,
            min_hold: Duration::from_secs(3),
            max_hold: Some(Duration::from_secs(3600)),
            deadline: None,
            hand_over: 9,
            fair: true,
            spread: Duration::from_secs(2),
        };
        let require = vec![Capability::Fencing, Capability::Holder];
        assert_eq!(common, Ok(Common { options, prefix: "app/".into(), require }));
        let value = |name| match name {
            "require" => "ttl",
            "hand_over" => "1",
            "fair" => "true",
            _ => "1s",
        };
        let every = Common::NAMES.map(|name| format!("{name}={}", value(name)));
        let mut config = ConfigString::parse(&format!("x:?{}", every.join("&"))).unwrap().into();
        Common::take(&mut config).unwrap();
        config.finish().expect("NAMES lists every option that `take` takes");
        assert_eq!(take("renew=manual").unwrap().options.renew, Renew::Manual);
        assert_eq!(take("renew=auto"), Ok(Common::default()));
    }

    #[test]
    fn invalid_value_is_refused_with_a_fix() {
        for (options, message) in [
            ("ttl=30", "open on x:?ttl=30: ttl=30 has no unit; write 30s for seconds, or use ms, m, h or d"),
            ("renew=10", "open on x:?renew=10: renew=10 has no unit; write 10s for seconds, or use ms, m, h or d"),
            (
                "renew=manul",
                "open on x:?renew=manul: renew=manul must be auto, manual or a duration such as 10s; did you mean \
                 \"manual\"?",
            ),
            (
                "require=fencing,holdr",
                "open on x:?require=fencing,holdr: require=fencing,holdr is wrong: there is no capability \"holdr\"; \
                 there are: \
                 ttl, fencing, loss-signal, holder, inspect, list, break, wake-up, shared, permits, hand-over, fair; \
                 did you mean \"holder\"?",
            ),
        ] {
            assert_eq!(take(options).unwrap_err(), message);
        }
    }
}
