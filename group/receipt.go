package group

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/kateway/kateway/internal/errs"
)

const (
	receiptOfTopic = 1 // the first byte
	receiptOfRetry = 2
	macSize        = 10 // bytes: 80 bits, guessed online only
	maxReceipt     = 1 + 2*binary.MaxVarintLen32 + binary.MaxVarintLen64 + 4 + macSize
)

// Receipts makes the receipts of one group's deliveries and reads them back. A receipt is opaque to clients: the delivery
// and a MAC under a key that belongs to the group, so that nobody can settle what was not given to a client of the
// group. Not for concurrent use.
type Receipts struct {
	mac hash.Hash
	buf [maxReceipt + sha256.Size]byte
}

// NewReceipts derives the group's key from the secret.
func NewReceipts(secret []byte, key Key) *Receipts {
	derive := hmac.New(sha256.New, secret)
	fmt.Fprintf(derive, "kateway receipt\x00%s\x00%s", key.Topic, key.Group)
	return &Receipts{mac: hmac.New(sha256.New, derive.Sum(nil))}
}

// Seal appends the receipt of a delivery to dst.
func (r *Receipts) Seal(dst []byte, d Ref) []byte {
	b := append(r.buf[:0], receiptOfTopic)
	if d.Retry {
		b[0] = receiptOfRetry
	}
	b = binary.AppendUvarint(b, uint64(d.Partition))
	b = binary.AppendUvarint(b, uint64(d.Offset))
	b = binary.AppendUvarint(b, uint64(d.Attempt))
	b = binary.BigEndian.AppendUint32(b, d.Hold)
	r.mac.Reset()
	r.mac.Write(b)
	n := len(b)
	b = r.mac.Sum(b)[:n+macSize]
	return base64.RawURLEncoding.AppendEncode(dst, b)
}

// Open reads a receipt. One that this group never made is Fenced, as one that is no longer valid: there is nothing that a
// client could do about the difference.
func (r *Receipts) Open(receipt string) (Ref, error) {
	bad := fmt.Errorf("receipt is not one of this group: %w", errs.Fenced)
	if len(receipt) > base64.RawURLEncoding.EncodedLen(maxReceipt) {
		return Ref{}, bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(receipt)
	if err != nil || len(b) <= macSize+5 || b[0] != receiptOfTopic && b[0] != receiptOfRetry {
		return Ref{}, bad
	}
	body, mac := b[:len(b)-macSize], b[len(b)-macSize:]
	r.mac.Reset()
	r.mac.Write(body)
	if !hmac.Equal(r.mac.Sum(r.buf[:0])[:macSize], mac) {
		return Ref{}, bad
	}
	rest := body[1 : len(body)-4]
	field := func() uint64 {
		v, n := binary.Uvarint(rest)
		rest = rest[max(n, 0):]
		return v
	}
	d := Ref{Retry: body[0] == receiptOfRetry, Partition: int32(field()), Offset: int64(field()), Attempt: uint32(field())}
	d.Hold = binary.BigEndian.Uint32(body[len(body)-4:])
	return d, nil
}
