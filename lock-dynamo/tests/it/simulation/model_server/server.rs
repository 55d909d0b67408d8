//! The model as the server of a simulation: it fails now and then, and makes the mistakes that it
//! is told to.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::Duration,
};

use lock_core::Mode;
use serde_json::{Value, json};
use test_support::sim::{
    Mistake,
    real::{Answer, Call, Place, Server, Trouble, world_time},
};

use super::{
    Item, Table, Write,
    plant::{plant, sign, sign_waiting},
};

/// How much too early a client may judge that a place has ended. It knows the server's clock to a
/// second, and its own clock has another rate until the next answer.
const JUDGED_EARLY: Duration = Duration::from_secs(2);

/// One table with the keys of the native schema.
#[derive(Debug)]
pub(crate) struct DynamoServer {
    table: Table,
    mistake: Option<Mistake>,
    /// The number of the next place, which keeps it in the item. A refused request uses one up,
    /// too.
    next_place: Cell<u64>,
    /// The places of all queues, as the world knows them.
    places: BTreeMap<u64, Place>,
}

impl DynamoServer {
    /// With an empty table.
    pub(crate) fn new(mistake: Option<Mistake>) -> Self {
        Self { table: Table::new(&["key"]), mistake, next_place: Cell::default(), places: BTreeMap::new() }
    }
}

/// Signs what a write leaves for a request that waits, and numbers its places from `next` on.
fn mark(write: &mut Write, next: &Cell<u64>) {
    for (_, waiting) in write.update.set.iter_mut().filter(|(path, _)| path.is("waiting")) {
        sign_waiting(waiting);
    }
    for (_, places) in write.update.append.iter_mut().filter(|(path, _)| path.is("places")) {
        for place in places["L"].as_array_mut().into_iter().flatten() {
            sign_waiting(place);
            place["M"]["number"] = json!({ "N": next.get().to_string() });
            next.set(next.get() + 1);
        }
    }
}

impl Server for DynamoServer {
    fn handle(&mut self, at: Duration, call: &Call, trouble: Option<Trouble>) -> Answer {
        let error =
            |status, code: &str| Answer { at, status, body: json!({ "__type": code, "message": "" }).to_string() };
        self.table.collect(Answer { at, status: 200, body: String::new() }.date());
        match trouble {
            Some(Trouble::Throttled) => return error(400, "ProvisionedThroughputExceededException"),
            Some(Trouble::FailedBefore) => return error(500, "InternalServerError"),
            Some(Trouble::FailedAfter) | None => {}
        }
        let body: Value = serde_json::from_str(&call.body).expect("the SDK sends JSON");
        let asked = RefCell::new(String::new());
        let Self { table, mistake, next_place, .. } = self;
        let (status, mut body) = table.call(&call.operation, &body, &|write| {
            let version = write.update.set.iter().find(|(path, _)| path.is("version"));
            let version = version.and_then(|(_, value)| value["S"].as_str()).unwrap_or_default();
            *asked.borrow_mut() = version.split('.').next().unwrap_or_default().to_owned();
            mark(write, next_place);
            plant(*mistake, write);
        });
        if trouble.is_some() {
            return error(500, "InternalServerError");
        }
        if let Some(item) = body.get_mut("Item") {
            sign(self.mistake, item, &asked.borrow());
        }
        Answer { at, status, body: body.to_string() }
    }

    fn changed_places(&mut self, at: Duration) -> Vec<Place> {
        let places: BTreeMap<u64, Place> = self.table.items.values().flat_map(places).collect();
        let ended = self.places.iter().filter(|(number, _)| !places.contains_key(number));
        let ended = ended.map(|(_, place)| Place { until: at, ..place.clone() });
        let changed = places.iter().filter(|(number, place)| self.places.get(number) != Some(place));
        let all = ended.chain(changed.map(|(_, place)| place.clone())).collect();
        self.places = places;
        all
    }
}

/// Returns the places of the queue in an item, by their numbers.
fn places(item: &Item) -> impl Iterator<Item = (u64, Place)> {
    let name = item["key"]["S"].as_str().expect("the key is a string");
    let places = item.get("places").and_then(|places| places["L"].as_array()).into_iter().flatten();
    places.map(move |place| {
        let text = |field: &str| place["M"][field]["S"].as_str().expect("the backend writes it").to_owned();
        let number = |field: &str| place["M"][field]["N"].as_str().and_then(|number| number.parse().ok());
        let number = |field: &str| -> u64 { number(field).expect("the backend and this server write it") };
        let until = world_time(number("expires_at")).saturating_sub(JUDGED_EARLY);
        let place = Place {
            number: number("number"),
            name: name.to_owned(),
            owner: text("owner"),
            mode: mode(&text("mode")),
            until,
        };
        (place.number, place)
    })
}

fn mode(text: &str) -> Mode {
    match text.split_once(' ') {
        Some((_, of)) => Mode::Permit { of: of.parse().expect("the backend writes a number") },
        None if text == "shared" => Mode::Shared,
        None => Mode::Exclusive,
    }
}
