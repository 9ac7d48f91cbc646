package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Identity is what one side of a connection shows the other, which knows its key from elsewhere. Nobody signs it, and it is thrown away with its
// process.
type Identity struct {
	// Key names the public key: it is no secret.
	Key string

	certificate tls.Certificate
}

// NewIdentity makes one.
func NewIdentity() (Identity, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Identity{}, err
	}
	// TLS wants certificates. Only the key of this one counts.
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(10, 0, 0)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return Identity{}, err
	}
	parsed, err := x509.ParseCertificate(certificate)
	if err != nil {
		return Identity{}, err
	}
	return Identity{Key: key(parsed), certificate: tls.Certificate{Certificate: [][]byte{certificate}, PrivateKey: private}}, nil
}

// key is the hash of a certificate's public key.
func key(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// TLS configures either side of a connection whose other side must have the key.
func (i Identity) TLS(other string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{i.certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, //nolint:gosec // the key is known: VerifyConnection compares it
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errors.New("the other side shows no key")
			}
			if has := key(state.PeerCertificates[0]); has != other {
				return fmt.Errorf("the other side has the key %s, and should have %s", has, other)
			}
			return nil
		},
	}
}
