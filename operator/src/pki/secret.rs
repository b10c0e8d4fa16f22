//! Reading and writing the text values of Secrets.

use super::authority::Pair;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use std::collections::BTreeMap;

/// A text value that is there and not empty.
pub(super) fn text<'a>(secret: Option<&'a Secret>, key: &str) -> Option<&'a str> {
    let bytes = secret?.data.as_ref()?.get(key)?;
    std::str::from_utf8(&bytes.0).ok().filter(|text| !text.is_empty())
}

/// The pair `<stem>.crt` and `<stem>.key`.
pub(super) fn pair(secret: Option<&Secret>, stem: &str) -> Option<Pair> {
    Some(Pair { certificate: text(secret, &format!("{stem}.crt"))?.to_owned(), key: text(secret, &format!("{stem}.key"))?.to_owned() })
}

/// The values of a Secret in the making.
#[derive(Clone, Debug, Default)]
pub(super) struct Values(BTreeMap<String, ByteString>);

impl Values {
    pub fn put(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.0.insert(key.into(), ByteString(text.into().into_bytes()));
    }

    pub fn put_pair(&mut self, stem: &str, pair: Pair) {
        self.put(format!("{stem}.crt"), pair.certificate);
        self.put(format!("{stem}.key"), pair.key);
    }

    pub fn into_data(self) -> BTreeMap<String, ByteString> {
        self.0
    }
}
