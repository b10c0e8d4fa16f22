//! The public key of a certificate request. Everything else in it is ignored.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

const MIN_RSA_BITS: usize = 2048;
/// An uncompressed point on P-256 (SEC 1).
const P256_BITS: usize = 256;

/// The key that signed the request, if it is one we certify: P-256, or RSA with at least 2048 bits.
pub(super) fn public_key(csr_der: &[u8]) -> Result<SubjectPublicKeyInfo, String> {
    let (rest, request) = X509CertificationRequest::from_der(csr_der).map_err(|_| "not a PKCS#10 request".to_owned())?;
    if !rest.is_empty() {
        return Err("bytes after the request".to_owned());
    }
    request.verify_signature().map_err(|_| "its signature does not verify".to_owned())?;
    let info = &request.certification_request_info.subject_pki;
    match info.parsed().map_err(|_| "its public key cannot be read".to_owned())? {
        PublicKey::EC(point) if point.key_size() == P256_BITS => {}
        PublicKey::RSA(key) if key.key_size() >= MIN_RSA_BITS => {}
        _ => return Err(format!("its key is neither P-256 nor RSA of at least {MIN_RSA_BITS} bits")),
    }
    SubjectPublicKeyInfo::from_der(info.raw).map_err(|_| "its key type is not supported".to_owned())
}
