//! Two updates of one item without a lock: the least that a cycle needs.

use std::net::SocketAddr;

use aws_sdk_dynamodb::{
    Client,
    config::{BehaviorVersion, Builder, Credentials, Region, retry::RetryConfig},
    types::AttributeValue,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What an item changes from and to, in the two updates.
const CHANGES: [(&str, &str); 2] = [("1", "2"), ("2", "1")];
const UPDATE: &str = "SET #v = :to";
const CONDITION: &str = "attribute_not_exists(#v) OR #v = :from";

fn settings(endpoint: &str) -> Builder {
    Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("eu-central-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "bench"))
        .endpoint_url(endpoint)
}

/// The SDK with its default settings, and a client for HTTPS.
pub(crate) fn by_default(endpoint: &str) -> Client {
    let tls = Provider::Rustls(CryptoMode::Ring);
    let http = aws_smithy_http_client::Builder::new().tls_provider(tls).build_https();
    Client::from_conf(settings(endpoint).http_client(http).build())
}

/// The SDK without retries and without TLS.
pub(crate) fn as_onelock_does(endpoint: &str) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    Client::from_conf(settings(endpoint).retry_config(RetryConfig::disabled()).http_client(http).build())
}

pub(crate) async fn two_updates(client: &Client, table: &str, key: &str) {
    for (from, to) in CHANGES {
        client
            .update_item()
            .table_name(table)
            .key("key", AttributeValue::S(key.into()))
            .update_expression(UPDATE)
            .condition_expression(CONDITION)
            .expression_attribute_names("#v", "v")
            .expression_attribute_values(":from", AttributeValue::S(from.into()))
            .expression_attribute_values(":to", AttributeValue::S(to.into()))
            .send()
            .await
            .expect("it answers");
    }
}

/// A connection without an SDK. It signs nothing, and reads no more of a reply than its length.
#[derive(Debug)]
pub(crate) struct Plain {
    stream: TcpStream,
    bodies: [String; 2],
}

impl Plain {
    pub(crate) async fn connect(server: SocketAddr, table: &str, key: &str) -> Self {
        let stream = TcpStream::connect(server).await.expect("the server runs");
        stream.set_nodelay(true).expect("a socket");
        let bodies = CHANGES.map(|(from, to)| {
            let body = json!({
                "TableName": table, "Key": { "key": { "S": key } },
                "UpdateExpression": UPDATE, "ConditionExpression": CONDITION, "ExpressionAttributeNames": { "#v": "v" },
                "ExpressionAttributeValues": { ":from": { "S": from }, ":to": { "S": to } },
            });
            body.to_string()
        });
        Self { stream, bodies }
    }

    pub(crate) async fn two_updates(&mut self) {
        let mut reply = Vec::new();
        for body in &self.bodies {
            let request = format!(
                "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: DynamoDB_20120810.UpdateItem\r\n\
                 Content-Type: application/x-amz-json-1.0\r\n\
                 Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/eu-central-1/dynamodb/aws4_request, \
                 SignedHeaders=host, Signature=none\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            self.stream.write_all(request.as_bytes()).await.expect("it reads");
            reply.clear();
            while !is_whole(&reply) {
                assert!(self.stream.read_buf(&mut reply).await.expect("it answers") > 0, "it closed the connection");
            }
            assert!(reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply));
        }
    }
}

/// Whether a reply has arrived with its body.
fn is_whole(reply: &[u8]) -> bool {
    let reply = String::from_utf8_lossy(reply);
    let Some((head, body)) = reply.split_once("\r\n\r\n") else { return false };
    let length = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, length) = length.expect("a reply states its length");
    body.len() >= length.parse().expect("a number")
}
