//! The certificate by which the API is known over the network, taken from its files whenever they are others.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::files::{Stamp, read, read_private};

/// The files of a certificate and its key.
#[derive(Debug)]
pub(super) struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stamps: Stamps,
    pair: Arc<CertifiedKey>,
    /// What is wrong with the files, which was told
    trouble: Option<String>,
}

/// Of the certificate and of its key
type Stamps = [Option<Stamp>; 2];

impl Certificate {
    /// Reads them.
    ///
    /// # Errors
    /// When one cannot be read, everybody may read the key, or they do not belong together.
    pub(super) fn open(certificate: &Path, key: &Path) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let (stamps, pair) = load(certificate, key, &provider)?;
        let state = Mutex::new(State { stamps, pair, trouble: None });
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), provider, state })
    }

    /// Reads them again if they are others. Where they are broken those before stay, which the log tells once.
    pub(super) fn refresh(&self) {
        let stamps = [&self.certificate, &self.key].map(|path| Stamp::of(path).ok());
        let mut state = self.state();
        if stamps == state.stamps {
            return;
        }
        state.stamps = stamps;
        match load(&self.certificate, &self.key, &self.provider) {
            Ok((stamps, pair)) => {
                tracing::info!(file = %self.certificate.display(), "the API's certificate was read again");
                *state = State { stamps, pair, trouble: None };
            }
            Err(error) => {
                let trouble = format!("the API's certificate is as before: {error:#}");
                tracing::error!("{trouble}");
                state.trouble = Some(trouble);
            }
        }
    }

    /// What is wrong with the files, if anything is.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is a certificate for this name or address.
    pub(super) fn is_for(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else { return false };
        let pair = self.state().pair.clone();
        let first = pair.cert.first().and_then(|first| ParsedCertificate::try_from(first).ok());
        first.is_some_and(|first| verify_server_name(&first, &name).is_ok())
    }

    /// How TLS is spoken with it: versions 1.2 and 1.3, HTTP/1.1 alone.
    ///
    /// # Errors
    /// When the provider has none of these versions.
    pub(super) fn tls(self: &Arc<Self>) -> Result<Arc<ServerConfig>> {
        let builder = ServerConfig::builder_with_provider(self.provider.clone());
        let mut config = builder
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // What is asked before the handshake is over could be played again by somebody else.
        config.max_early_data_size = 0;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.state().pair.clone())
    }
}

fn load(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<(Stamps, Arc<CertifiedKey>)> {
    let (shown, shown_key) = (certificate.display(), key.display());
    let (stamp, pem) = read(certificate)?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|chain| !chain.is_empty())
        .with_context(|| format!("{shown} has no certificate in PEM (-----BEGIN CERTIFICATE-----)"))?;
    let (key_stamp, pem) = read_private(key)?;
    // What the parser says of a key could show some of it.
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .ok()
        .with_context(|| format!("{shown_key} has no private key in PEM (-----BEGIN PRIVATE KEY-----)"))?;
    let pair = CertifiedKey::from_der(chain, key, provider)
        .with_context(|| format!("{shown} and {shown_key} are no pair"))?;
    Ok(([Some(stamp), Some(key_stamp)], Arc::new(pair)))
}

/// Whether a `Host` means us: the address that was connected to, or a name of the certificate. Whoever has a name of his own lead here
/// is told so, before a browser that believes him is.
pub(super) fn is_ours(certificate: &Certificate, host: &str, local: Option<IpAddr>) -> bool {
    let name = without_port(host);
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    match address {
        Some(address) if local.map(|local| local.to_canonical()) == Some(address.to_canonical()) => true,
        Some(address) => certificate.is_for(&address.to_string()),
        None => certificate.is_for(name),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) && !name.is_empty() => {
            // An IPv6 address has colons of its own, and brackets where there is a port.
            if name.contains(':') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_told_from_its_port() {
        for (host, name) in [
            ("a.example:443", "a.example"),
            ("a.example", "a.example"),
            ("[2001:db8::1]:443", "[2001:db8::1]"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("2001:db8::1", "2001:db8::1"),
            ("192.0.2.1:8443", "192.0.2.1"),
            ("", ""),
            (":443", ":443"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }

    #[test]
    fn what_is_no_pair_is_told_without_what_is_in_it() {
        let folder = std::env::temp_dir().join(format!("eastgate-certificate-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (certificate, key) = (folder.join("c.pem"), folder.join("k.pem"));
        let told = || Certificate::open(&certificate, &key).unwrap_err();
        assert!(format!("{:#}", told()).contains("c.pem cannot be read"));
        std::fs::write(&certificate, "nothing").unwrap();
        assert!(told().to_string().contains("no certificate in PEM"));
        std::fs::write(&certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .unwrap();
        std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\nsecret\n").unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o604)).unwrap();
        assert!(told().to_string().contains("chmod 0640"));
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let told = format!("{:#}", told());
        assert!(told.contains("no private key") && !told.contains("secret"), "{told}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
