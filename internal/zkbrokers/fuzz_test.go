package zkbrokers

import (
	"net"
	"testing"
)

// FuzzAddress: a broker's node of any bytes names an address or is an error.
func FuzzAddress(f *testing.F) {
	f.Add([]byte(`{"host":"k1","port":9092,"endpoints":["PLAINTEXT://k1:9092","SASL_SSL://[::1]:9093"],"version":4}`), "PLAINTEXT")
	f.Add([]byte(`{"endpoints":["A://h:1"],"listener_security_protocol_map":{"A":"SSL"}}`), "SSL")
	f.Add([]byte(`{"host":null,"port":-1,"endpoints":["://",":"]}`), "SASL_SSL")
	f.Fuzz(func(t *testing.T, node []byte, protocol string) {
		addr, err := address(node, protocol)
		if err != nil {
			return
		}
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			t.Fatalf("%s is read as %q", node, addr)
		}
	})
}
