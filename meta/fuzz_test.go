package meta

import (
	"bytes"
	"encoding/json"
	"testing"
)

// FuzzObject: an object of any bytes, as ZooKeeper or a file may have it, is refused or is one that would be written and read again.
func FuzzObject(f *testing.F) {
	f.Add("apps", "shop", []byte(`{"app":"shop","class":"standard","keys":[{"key_id":"0123456789abcdef","use":"pub","hash":"x"}]}`))
	f.Add("topics", "shop.orders.v1", []byte(`{"app":"shop","topic":"orders","ver":"v1","partitions":1,"max_attempts":3}`))
	f.Add("subscriptions", "shop.orders.v1.bill", []byte(`{"app":"shop","topic":"orders","ver":"v1","subscriber":"bill","groups":["g"]}`))
	f.Add("clusters", "east", []byte(`{"cluster":"east","brokers":["k:9092"],"tls":true,"sasl":"plain"}`))
	f.Add("options", "log_level", []byte(`{"option":"log_level","value":"info"}`))
	f.Add("secrets", "peer", []byte(`{"secret":"peer","current":"AA=="}`))
	f.Add("adminkeys", "x", []byte(`{"key_id":"x","role":"viewer"}`))
	f.Add("schemas", "shop.orders.v1.00001", []byte(`{"app":"shop","topic":"orders","ver":"v1","version":1,"id":1,"type":"json","text":"{}"}`))
	f.Fuzz(func(t *testing.T, kind, name string, data []byte) {
		id := ID{Kind(kind), name}
		r, err := decode(id, data)
		if err != nil {
			return
		}
		if err := id.Check(); err != nil {
			t.Skip("sources look at names first")
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decode(id, b)
		if err != nil {
			t.Fatalf("%s is written as %s, and that is refused: %v", data, b, err)
		}
		if c, err := json.Marshal(again); err != nil || !bytes.Equal(b, c) {
			t.Fatalf("%s, then %s: %v", b, c, err)
		}
	})
}
