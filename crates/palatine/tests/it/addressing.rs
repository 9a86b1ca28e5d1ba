//! The paywall and the token, over each of the ways to name an agent.

use std::sync::Arc;

use chain::evm::BlockTag;
use domain::{B256, Usdc};
use fixtures::{Answer, EvmChain, PATIENCE, PAYEE, PaymentSigner, SMALL, SpawnedAgent, Stack, now_s};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PRICE: Usdc = Usdc(1_000_000);

/// How a request names its agent: where it is sent, and what it says besides.
struct Addressing {
    name: &'static str,
    address: String,
    prefix: String,
    headers: Vec<(&'static str, String)>,
}

impl Addressing {
    fn all(stack: &Stack, agent: &SpawnedAgent) -> [Self; 3] {
        let gateway = stack.url.strip_prefix("http://").unwrap().to_owned();
        let paths = agent.text("path_url").strip_prefix("http://").and_then(|url| url.split_once('/'));
        let paths = paths.unwrap().0.to_owned();
        let by = |name, address, prefix, headers| Self { name, address, prefix, headers };
        [
            by("host", gateway.clone(), String::new(), vec![("host", agent.text("host").to_owned())]),
            by("path", paths, format!("/{}", agent.id), vec![]),
            by("header", gateway, String::new(), vec![("e2b-sandbox-id", agent.id.clone())]),
        ]
    }

    fn ask(&self, web: &reqwest::Client, path: &str, body: &Value) -> RequestBuilder {
        let request = web.request(Method::POST, format!("http://{}{}{path}", self.address, self.prefix)).json(body);
        self.headers.iter().fold(request, |request, (name, value)| request.header(*name, value))
    }

    /// The status of a request whose body is announced and never sent.
    async fn announced(&self, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let host = if self.name == "host" { "" } else { "host: localhost\r\n" };
        let own: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("POST {}{path} HTTP/1.1\r\n{host}{own}{headers}", self.prefix);
        stream.write_all(format!("{head}content-length: 4000000\r\n\r\n").as_bytes()).await.unwrap();
        let mut status = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut status)).await.expect("the body is waited for").unwrap();
        String::from_utf8_lossy(&status).into_owned()
    }
}

#[tokio::test]
async fn fault_2_11_and_2_2_each_way_to_name_an_agent_has_the_same_paywall_before_the_body() {
    let evm = EvmChain::start().await;
    let chain = evm.connect().await;
    // A body that is waited for would be waited for longer than the test waits.
    let mut stack = Stack::start_on(&evm, "[limits]\nbody_ms = 600000\n").await;
    let payer = evm.payer().await;
    let holder = stack.holder(SMALL);
    let agent = stack.agent(&holder).await;
    stack.price(&holder, &agent, "/echo/paid", PRICE.0).await;
    let web = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let ways = Addressing::all(&stack, &agent);
    let body = json!({"for": "money"});

    let mut terms = Vec::new();
    for way in &ways {
        refuses_what_is_not_paid(way).await;
        let free = way.ask(&web, "/echo/paid", &body).bearer_auth(agent.text("token"));
        assert_eq!(Answer::of(free.send().await.unwrap()).await.expect(200)["path"], "/echo/paid", "{}", way.name);
        let asked = way.ask(&web, "/echo/paid", &body).send().await.unwrap();
        terms.push((asked.headers()["payment-required"].clone(), Answer::of(asked).await.expect(402)));
    }
    assert!(terms.iter().all(|other| *other == terms[0]), "{terms:?}");

    // One payment buys one answer, whichever way it is shown.
    let buyer = x402::Buyer::new(PaymentSigner(payer), Arc::new(evm.tokens()), 300);
    for (n, paid) in (1_u8..).zip(&ways) {
        let asked = paid.ask(&web, "/echo/paid", &body).send().await.unwrap();
        let (headers, wanted) = (asked.headers().clone(), asked.bytes().await.unwrap());
        let paying = buyer.pay(&headers, &wanted, PRICE, now_s(), B256::repeat_byte(n)).unwrap();
        let (name, value) = paying.header;
        let bought = paid.ask(&web, "/echo/paid", &body).header(&name, &value).send().await.unwrap();
        Answer::of(bought).await.expect(200);
        for way in &ways {
            let again = way.ask(&web, "/echo/paid", &body).header(&name, &value).send().await.unwrap();
            assert_eq!(again.status(), 402, "paid by {}, shown by {}", paid.name, way.name);
        }
        assert_eq!(chain.usdc_of(PAYEE, BlockTag::Latest).await.unwrap(), Usdc(PRICE.0 * u64::from(n)));
    }
    stack.end();
}

/// Nothing is read of what is not paid for, nor of what nobody may ask.
async fn refuses_what_is_not_paid(way: &Addressing) {
    let upgrade = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n";
    for (path, headers, status) in [
        ("/echo/paid", "", "HTTP/1.1 402"),
        ("/echo/paid", upgrade, "HTTP/1.1 402"),
        ("/echo/free", "", "HTTP/1.1 401"),
        ("/echo/free", "authorization: Bearer plt_x\r\n", "HTTP/1.1 401"),
    ] {
        assert_eq!(way.announced(path, headers).await, status, "{} {path} {headers}", way.name);
    }
    // No other writing of the path is free.
    for path in ["//echo/paid", "/echo/../echo/paid", "/%65cho/paid", "/echo/paid;x"] {
        let status = way.announced(path, "").await;
        assert!(["HTTP/1.1 400", "HTTP/1.1 401"].contains(&status.as_str()), "{} {path}: {status}", way.name);
    }
}
