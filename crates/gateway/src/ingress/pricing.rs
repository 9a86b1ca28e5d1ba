//! What a path costs.
//!
//! A price must not be evaded by another writing of its path, which an agent might read
//! as the same: an agent with prices takes plain paths alone, and a path that some agents
//! take for a priced one (`/v1/chat.json`) costs what that costs.

use domain::Usdc;

use crate::ingress::prices::Prices;

/// Prices of one agent at most.
pub(crate) const MAX_PRICES: usize = 64;
/// Bytes of a price's path at most.
const MAX_PATH: usize = 256;

/// What one request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    /// The amount.
    pub(crate) price: Usdc,
    /// Whether paying it opens the path of a private agent. It does not where the path
    /// may merely be read as one that has a price.
    pub(crate) opens: bool,
}

/// What an agent charges who comes without its token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AgentPricing {
    /// Whether any of its paths costs something.
    pub(crate) has_prices: bool,
    /// What this request costs.
    pub(crate) charge: Option<Charge>,
}

/// What a path costs: the price of its longest priced prefix of whole segments, and the
/// dearer one where some agents read it as another path. Upper and lower case count as
/// equal, as some agents take them.
pub(crate) fn charge(prices: &Prices, path: &str) -> Option<Charge> {
    // By way of the upper case: a long s equals an s where case is ignored.
    let path = decoded(path).unwrap_or_else(|| path.to_owned()).to_uppercase().to_lowercase();
    let longest = |begins: fn(&str, &str) -> bool| {
        let fits = prices.iter().filter(|(prefix, _)| begins(&path, &prefix.to_ascii_lowercase()));
        fits.max_by_key(|(prefix, _)| prefix.len()).map(|(_, price)| *price)
    };
    let written = longest(begins_with).filter(|price| *price > Usdc::ZERO);
    let price = written.max(longest(may_begin_with)).filter(|price| *price > Usdc::ZERO)?;
    Some(Charge { price, opens: written.is_some() })
}

/// Whether a path begins with these segments, as it is written.
fn begins_with(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

/// Whether some agents take a path for one that begins with these segments.
fn may_begin_with(path: &str, prefix: &str) -> bool {
    let bare = prefix.strip_suffix('/').unwrap_or(prefix);
    let is_folder = bare.len() < prefix.len();
    let mut segments = path.split('/');
    let mut names = bare.split('/').peekable();
    while let Some(name) = names.next() {
        let is_last = names.peek().is_none() && !is_folder;
        if !segments.next().is_some_and(|segment| may_be(segment, name, is_last)) {
            return false;
        }
    }
    !is_folder || segments.next().is_some()
}

/// Whether some agents take a segment for this name: they drop spaces around it (for some
/// a plus is a space) and dots behind it, and in the last segment what follows a dot may
/// be the format that is asked for: `/v1/chat.json` is `/v1/chat` to Rails and Spring.
fn may_be(segment: &str, name: &str, is_last: bool) -> bool {
    let is_space = |letter: char| letter.is_whitespace() || letter == '+';
    [segment, segment.trim_start_matches(is_space)].into_iter().any(|segment| {
        let rest = segment.strip_prefix(name).map(|rest| rest.trim_start_matches(is_space));
        rest.is_some_and(|rest| {
            let is_dropped = |letter| is_space(letter) || letter == '.';
            rest.chars().all(is_dropped) || (is_last && rest.starts_with('.'))
        })
    })
}

/// Whether a path has one reading: no empty or dotted segments, nothing encoded
/// that need not be, no second separators.
pub(crate) fn is_plain(path: &str) -> bool {
    let segments = || path.strip_prefix('/').into_iter().flat_map(|path| path.split('/'));
    let last = segments().count().saturating_sub(1);
    let whole = |(at, segment): (usize, &str)| {
        let name = segment.split(';').next().unwrap_or(segment);
        (!segment.is_empty() || at == last) && !matches!(name, "." | "..") && !segment.contains(';')
    };
    path.starts_with('/') && segments().enumerate().all(whole) && !path.contains('\\') && decoded(path).is_some()
}

/// Whether a price can be put on a path: only on one that has a single spelling.
pub(crate) fn can_be_priced(path: &str) -> bool {
    let needs_no_encoding = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@/".contains(&byte);
    is_plain(path) && path.len() <= MAX_PATH && path.bytes().all(needs_no_encoding)
}

/// The path that is meant, where it has one reading: no letters, digits, dots or
/// separators are percent-encoded, and all together is text.
fn decoded(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        // `from_str_radix` takes a sign.
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
        if byte.is_ascii_alphanumeric() || byte.is_ascii_control() || b"-._~/\\%;?#".contains(&byte) {
            return None;
        }
        bytes.push(byte);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices(list: &[(&str, u64)]) -> Prices {
        list.iter().map(|(path, price)| ((*path).to_owned(), Usdc(*price))).collect()
    }

    fn price(prices: &Prices, path: &str) -> Option<Usdc> {
        charge(prices, path).map(|charge| charge.price)
    }

    #[test]
    fn the_longest_beginning_of_a_path_that_ends_with_a_segment_counts() {
        let prices = prices(&[("/v1", 1), ("/v1/chat", 2), ("/v1/free", 0), ("/static/", 3)]);
        for (path, expected) in [
            ("/v1", Some(1)),
            ("/v1/", Some(1)),
            ("/v1/models", Some(1)),
            ("/v1/chat/completions", Some(2)),
            ("/V1/Chat/completions", Some(2)),
            ("/v1/chats", Some(1)),
            ("/v1/free/x", None),
            ("/v11", None),
            ("/static/a", Some(3)),
            ("/static", None),
            ("/", None),
        ] {
            assert_eq!(price(&prices, path), expected.map(Usdc), "{path}");
        }
        assert_eq!(price(&Prices::new(), "/v1"), None);
        assert_eq!(price(&[("/".to_owned(), Usdc(5))].into(), "/anything/at/all"), Some(Usdc(5)));
    }

    #[test]
    fn fault_2_1_a_price_holds_for_every_way_to_write_its_path_and_is_put_on_no_other() {
        let prices = prices(&[("/pay!", 1), ("/a:b", 2)]);
        for path in ["/pay!", "/pay%21", "/PAY%21/x", "/a%3Ab"] {
            assert!(is_plain(path) && price(&prices, path).is_some(), "{path}");
        }
        for path in ["/", "/v1/chat/completions", "/static/", "/pay!", "/a:b", "/~x/y.z"] {
            assert!(can_be_priced(path), "{path}");
        }
        let long = format!("/{}", "x".repeat(MAX_PATH));
        for path in [
            "",
            "v1",
            "/echo/résumé",
            "/a b",
            "/a\u{7f}",
            "/a\n",
            "/a%20b",
            "/a?b",
            "/a#b",
            "/{a}",
            "/a|b",
            "/a//b",
            &long,
        ] {
            assert!(!can_be_priced(path), "{path:?}");
        }
    }

    #[test]
    fn fault_2_1_what_some_agents_read_as_a_priced_path_costs_what_that_costs() {
        let prices = prices(&[("/v1/chat", 2), ("/v1/chat/free", 0), ("/v1/chat.txt", 0), ("/c++", 3), ("/in/", 4)]);
        for (path, expected) in [
            ("/v1/chat.json", Some(2)),
            ("/v1/chat.tar.gz", Some(2)),
            ("/v1/chat.", Some(2)),
            ("/V1/Chat.JSON", Some(2)),
            ("/v1/chat.json/more", Some(2)),
            ("/v1/chat%20", Some(2)),
            ("/v1/chat+", Some(2)),
            ("/v1/chat%C2%A0", Some(2)),
            ("/v1/%20chat", Some(2)),
            ("/v1%20/chat", Some(2)),
            ("/v1./chat", Some(2)),
            ("/v1/chat%20.json", Some(2)),
            ("/v1/chat%20/free", None),
            // The dearer reading: a format of what is free, or something of what is not.
            ("/v1/chat/free.json", Some(2)),
            // Its holder said so.
            ("/v1/chat.txt", None),
            ("/c++", Some(3)),
            ("/c++%20", Some(3)),
            ("/%E2%84%AA", None),
            ("/in/.x", Some(4)),
            ("/in%20/x", Some(4)),
            ("/in", None),
            ("/in.json", None),
            ("/c", None),
            ("/v1/chats.json", None),
            ("/v1/chat-2", None),
            ("/v1/chat+more", None),
            ("/v1/chat%20more", None),
            ("/v1.json/chat", None),
            ("/static/app.js", None),
            ("/a%20b", None),
            ("/", None),
        ] {
            assert!(is_plain(path), "{path}");
            assert_eq!(price(&prices, path), expected.map(Usdc), "{path}");
        }
        let opens = |path| charge(&prices, path).is_some_and(|charge| charge.opens);
        assert!(opens("/v1/chat") && opens("/V1/chat/more") && opens("/v1/chat/free.json"));
        assert!(!opens("/v1/chat.json") && !opens("/v1/chat%20"), "who pays for one path does not pay for another");
        let all = [("/".to_owned(), Usdc(5)), ("/static".to_owned(), Usdc(0)), ("/task".to_owned(), Usdc(7))].into();
        assert_eq!(price(&all, "/static/app.js"), None);
        assert_eq!(price(&all, "/app.js"), Some(Usdc(5)));
        assert_eq!(price(&all, "/ta%C5%BF%E2%84%AA"), Some(Usdc(7)), "a long s and Kelvin's sign");
    }

    #[test]
    fn a_path_with_a_second_reading_is_not_plain() {
        for path in ["/", "/v1", "/v1/", "/v1/chat/completions", "/a%20b", "/%C3%A9", "/a.b/..c"] {
            assert!(is_plain(path), "{path}");
        }
        for path in [
            "",
            "v1",
            "//v1",
            "/v1//chat",
            "/./v1",
            "/a/../v1",
            "/v1/..",
            "/%761",
            "/v1%2Fchat",
            "/v1/%2e%2e/x",
            "/v1%5cchat",
            "/v1\\chat",
            "/v1;x/chat",
            "/..;/v1",
            "/v1%3b",
            "/%",
            "/%zz",
            "/%2",
            "/v1%252f",
            "/a%00",
            "/v1%3fx",
            "/v1%23x",
            "/v1%ff",
            "/v1%c3",
            "/%+1",
        ] {
            assert!(!is_plain(path), "{path}");
        }
    }
}
