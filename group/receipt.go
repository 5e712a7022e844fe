package group

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"github.com/kateway/kateway/internal/errs"
)

const (
	receiptOfTopic = 1 // the first byte
	receiptOfRetry = 2
	macSize        = 12 // bytes: 96 bits, guessed online only
	maxBody        = 1 + 2*binary.MaxVarintLen32 + binary.MaxVarintLen64 + 4
	maxReceipt     = maxBody + macSize
	macInput       = 2 * aes.BlockSize
)

// receiptText is how receipts are written.
var receiptText = base64.RawURLEncoding.Strict() //nolint:gochecknoglobals // a constant

// Receipts makes the receipts of one group's deliveries and reads them back. A receipt is opaque to clients: the delivery
// and a MAC under a key that belongs to the group, so that nobody can settle what was not given to a client of the
// group. Not for concurrent use.
//
// The MAC is the CBC-MAC of AES-256 over exactly two blocks, cut short: over inputs of one length that is a pseudo-random
// function, and it costs a fraction of an HMAC. The delivery fits, with its length in the last byte, so that no two have one input.
type Receipts struct {
	block cipher.Block
	in    [macInput]byte // what mac is of
	buf   [maxReceipt]byte
	text  [(maxReceipt*8 + 5) / 6]byte
}

// The length's byte is never one of the delivery's.
const _ = uint(macInput - 1 - maxBody)

// NewReceipts derives the group's key from the secret.
func NewReceipts(secret []byte, key Key) *Receipts {
	derive := hmac.New(sha256.New, secret)
	fmt.Fprintf(derive, "kateway receipt 2\x00%s\x00%s", key.Topic, key.Group)
	block, err := aes.NewCipher(derive.Sum(nil))
	if err != nil { // only for a key of another length
		panic(err)
	}
	return &Receipts{block: block}
}

// mac is good until the next call.
func (r *Receipts) mac(body []byte) []byte {
	in := r.in[:]
	clear(in[copy(in, body):])
	in[macInput-1] = byte(len(body))
	first, second := in[:aes.BlockSize], in[aes.BlockSize:]
	r.block.Encrypt(first, first)
	subtle.XORBytes(second, second, first)
	r.block.Encrypt(second, second)
	return second[:macSize]
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
	return receiptText.AppendEncode(dst, append(b, r.mac(b)...))
}

// Open reads a receipt. One that this group never made is Fenced, as one that is no longer valid: there is nothing that a
// client could do about the difference.
func (r *Receipts) Open(receipt string) (Ref, error) {
	if len(receipt) > len(r.text) {
		return Ref{}, badReceipt()
	}
	b, err := receiptText.AppendDecode(r.buf[:0], append(r.text[:0], receipt...))
	if err != nil || len(b) <= macSize+5 || b[0] != receiptOfTopic && b[0] != receiptOfRetry {
		return Ref{}, badReceipt()
	}
	body, mac := b[:len(b)-macSize], b[len(b)-macSize:]
	if subtle.ConstantTimeCompare(r.mac(body), mac) != 1 {
		return Ref{}, badReceipt()
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

func badReceipt() error { return fmt.Errorf("receipt is not one of this group: %w", errs.Fenced) }
