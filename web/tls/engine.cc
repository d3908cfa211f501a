// TLS for the page: BoringSSL, bytes in and bytes out, compiled to WebAssembly by web/bundling/tls.py.
//
// Does: one connection a handle, as client or as server; TLS 1.2 and 1.3; chains verified to the roots it was given, at
// the time it was given, for one host name; keys and digests of a useful size; a list of certificates not to trust.
// Does not: know sockets, clocks or files, nor choose roots. web/worker/tls.js is the other half.
//
// Bytes pass through one buffer, `io`: what a call takes lies there before, what it gives lies there after.

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/mem.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <algorithm>

#define EXPORT(name) extern "C" __attribute__((export_name(#name)))

namespace {

const size_t kBuffer = 1 << 16;
const size_t kNamed = 8;          // bytes of a digest in the list: see pynode/tls.py, names_of
const unsigned kMinRsa = 2048;    // bits, as OpenSSL's security level 2
const unsigned kMinCurve = 224;   // bits, likewise
// What OpenSSL calls these, where BoringSSL has no names for them.
const int kLeafTooSmall = 66, kAuthorityTooSmall = 67, kDigestTooWeak = 68;

uint8_t io[kBuffer];
SSL_CTX *context;
uint8_t *revoked;  // sorted digests
size_t revoked_count;

// Whether the list has the digest of these two pieces, which this frees. What has no DER is not trusted.
bool listed(uint8_t *first, int first_size, uint8_t *second, int second_size) {
  bool found = first_size <= 0 || second_size <= 0;
  if (!found) {
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA256_CTX hash;
    SHA256_Init(&hash);
    SHA256_Update(&hash, first, first_size);
    SHA256_Update(&hash, second, second_size);
    SHA256_Final(digest, &hash);
    for (size_t low = 0, high = revoked_count; low < high && !found;) {
      size_t middle = (low + high) / 2;
      int order = memcmp(digest, revoked + middle * kNamed, kNamed);
      found = order == 0;
      if (order < 0) high = middle;
      else low = middle + 1;
    }
  }
  OPENSSL_free(first);
  OPENSSL_free(second);
  return found;
}

// Certificates are listed by issuer and serial number, or by subject and the digest of their key.
bool is_revoked(const X509 *certificate) {
  uint8_t *issuer = nullptr, *serial = nullptr, *subject = nullptr, *key = nullptr, *digest = nullptr;
  int issuer_size = i2d_X509_NAME(X509_get_issuer_name(certificate), &issuer);
  int serial_size = i2d_ASN1_INTEGER(X509_get0_serialNumber(certificate), &serial);
  int subject_size = i2d_X509_NAME(X509_get_subject_name(certificate), &subject);
  int key_size = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &key);
  if (key_size > 0) {
    digest = static_cast<uint8_t *>(OPENSSL_malloc(SHA256_DIGEST_LENGTH));
    SHA256(key, key_size, digest);
    OPENSSL_free(key);
  }
  bool by_serial = listed(issuer, issuer_size, serial, serial_size);
  bool by_key = listed(subject, subject_size, digest, key_size > 0 ? SHA256_DIGEST_LENGTH : 0);
  return by_serial || by_key;
}

bool too_small(const X509 *certificate) {
  const EVP_PKEY *key = X509_get0_pubkey(certificate);
  if (key == nullptr) return true;
  switch (EVP_PKEY_id(key)) {
    case EVP_PKEY_RSA: return EVP_PKEY_bits(key) < static_cast<int>(kMinRsa);
    case EVP_PKEY_EC: return EVP_PKEY_bits(key) < static_cast<int>(kMinCurve);
    case EVP_PKEY_ED25519: return false;
    default: return true;
  }
}

bool weak_digest(const X509 *certificate) {
  int kind = X509_get_signature_nid(certificate);
  return kind == NID_sha1WithRSAEncryption || kind == NID_ecdsa_with_SHA1 || kind == NID_md5WithRSAEncryption;
}

// The library's own verification, then what it does not look at.
int verify(X509_STORE_CTX *store, void *) {
  if (X509_verify_cert(store) != 1) return 0;
  const STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(store);
  size_t size = sk_X509_num(chain);
  for (size_t at = 0; at < size; at++) {
    const X509 *certificate = sk_X509_value(chain, at);
    int flaw = X509_V_OK;
    if (is_revoked(certificate)) flaw = X509_V_ERR_CERT_REVOKED;
    else if (too_small(certificate)) flaw = at == 0 ? kLeafTooSmall : kAuthorityTooSmall;
    else if (at + 1 < size && weak_digest(certificate)) flaw = kDigestTooWeak;  // a root's own signature says nothing
    if (flaw != X509_V_OK) {
      X509_STORE_CTX_set_error(store, flaw);
      return 0;
    }
  }
  return 1;
}

}  // namespace

// All that BoringSSL needs linked of the C++ library, whose names these are: compiling that library takes half a minute.
void operator delete(void *, size_t) noexcept { abort(); }  // BoringSSL frees by itself
void std::__libcpp_verbose_abort(const char *, ...) noexcept { abort(); }
template <class Less, class Iterator> void std::__sort(Iterator first, Iterator last, Less) {
  std::make_heap(first, last);
  std::sort_heap(first, last);
}
template void std::__sort<std::__less<uint16_t> &>(uint16_t *, uint16_t *, std::__less<uint16_t> &);

EXPORT(buffer) uint8_t *tls_buffer() { return io; }
EXPORT(allocate) void *tls_allocate(size_t size) { return OPENSSL_malloc(size); }

// Certificates to trust (DER, one after the other), and the names of those that nobody shall trust, in order; these stay
// where they are.
// Returns how many roots there are; -1 where something is no certificate.
EXPORT(setup) int tls_setup(const uint8_t *roots, size_t size, uint8_t *digests, size_t digests_size) {
  context = SSL_CTX_new(TLS_method());
  if (context == nullptr || !SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION)) return -1;
  // With a key share that also withstands quantum computers: what is recorded today is not read later.
  if (!SSL_CTX_set1_curves_list(context, "X25519MLKEM768:X25519:P-256:P-384")) return -1;
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);  // a resumed session would link two connections
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_cert_verify_callback(context, verify, nullptr);
  revoked = digests;
  revoked_count = digests_size / kNamed;
  int count = 0;
  for (const uint8_t *at = roots; at < roots + size; count++) {
    X509 *root = d2i_X509(nullptr, &at, roots + size - at);
    if (root == nullptr || !X509_STORE_add_cert(SSL_CTX_get_cert_store(context), root)) return -1;
    X509_free(root);
  }
  return count;
}

// A client's connection. `io` holds the host (a name or an IP address, not ended by zero), then the ALPN list in its
// wire format. 0 where the host is none.
EXPORT(connect) SSL *tls_connect(size_t host_size, size_t alpn_size, double now) {
  char host[256];
  if (host_size == 0 || host_size >= sizeof(host) || host_size + alpn_size > kBuffer) return nullptr;
  memcpy(host, io, host_size);
  host[host_size] = 0;
  SSL *ssl = SSL_new(context);
  BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
  if (ssl == nullptr || in == nullptr || out == nullptr) abort();  // out of memory
  BIO_set_mem_eof_return(in, -1);
  BIO_set_mem_eof_return(out, -1);
  SSL_set_bio(ssl, in, out);
  SSL_set_connect_state(ssl);
  X509_VERIFY_PARAM *rules = SSL_get0_param(ssl);
  X509_VERIFY_PARAM_set_time_posix(rules, static_cast<int64_t>(now));
  X509_VERIFY_PARAM_set_hostflags(rules, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  bool named = X509_VERIFY_PARAM_set1_ip_asc(rules, host) == 1;
  if (!named) named = X509_VERIFY_PARAM_set1_host(rules, host, host_size) == 1 && SSL_set_tlsext_host_name(ssl, host);
  if (!named || SSL_set_alpn_protos(ssl, io + host_size, alpn_size) != 0) {
    SSL_free(ssl);
    return nullptr;
  }
  return ssl;
}

EXPORT(close) void tls_close(SSL *ssl) { SSL_free(ssl); }

// `size` bytes of what the far end sent; 0: it sends no more.
EXPORT(receive) void tls_receive(SSL *ssl, size_t size) {
  BIO *in = SSL_get_rbio(ssl);
  if (size == 0) BIO_set_mem_eof_return(in, 0);
  else if (BIO_write(in, io, size) != static_cast<int>(size)) abort();  // out of memory
}

// Go on with the handshake. An SSL_ERROR_* number; 0 once it is done.
EXPORT(handshake) int tls_handshake(SSL *ssl) {
  ERR_clear_error();
  int result = SSL_do_handshake(ssl);
  return result == 1 ? SSL_ERROR_NONE : SSL_get_error(ssl, result);
}

// Plain bytes of as many records as there are into `io`: how many, or an SSL_ERROR_* number below zero. What stops it
// after some bytes is told by the next call: it lasts.
EXPORT(read) int tls_read(SSL *ssl) {
  int size = 0;
  while (size < static_cast<int>(kBuffer)) {
    ERR_clear_error();
    int result = SSL_read(ssl, io + size, kBuffer - size);
    if (result <= 0) return size > 0 ? size : -SSL_get_error(ssl, result);
    size += result;
  }
  return size;
}

// Plain bytes out of `io`, to be taken encrypted by `take`. How many, or an SSL_ERROR_* number below zero.
EXPORT(write) int tls_write(SSL *ssl, size_t size) {
  ERR_clear_error();
  int result = SSL_write(ssl, io, size);
  return result > 0 ? result : -SSL_get_error(ssl, result);
}

// close_notify: we write no more.
EXPORT(end) void tls_end(SSL *ssl) {
  ERR_clear_error();
  SSL_shutdown(ssl);
}

// Bytes for the far end into `io`: how many.
EXPORT(take) int tls_take(SSL *ssl) {
  int size = BIO_read(SSL_get_wbio(ssl), io, kBuffer);
  return size > 0 ? size : 0;
}

EXPORT(verdict) int tls_verdict(SSL *ssl) { return static_cast<int>(SSL_get_verify_result(ssl)); }

// The reason of the last error in OpenSSL's words, such as BAD_DECRYPT, into `io`: its size.
EXPORT(reason) size_t tls_reason() {
  const char *text = ERR_reason_error_string(ERR_peek_last_error());
  size_t size = text == nullptr ? 0 : strlen(text);
  memcpy(io, text, size);
  return size;
}

// The protocol agreed on by ALPN, into `io`: its size.
EXPORT(protocol) size_t tls_protocol(const SSL *ssl) {
  const uint8_t *name;
  unsigned size;
  SSL_get0_alpn_selected(ssl, &name, &size);
  memcpy(io, name, size);
  return size;
}

EXPORT(version) int tls_version(const SSL *ssl) { return SSL_version(ssl); }
