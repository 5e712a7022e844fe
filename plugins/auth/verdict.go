package auth

// verdict is what became of a request here. Metrics and the log of debugging tell them apart, answers do not.
type verdict uint8

const (
	passed       verdict = iota
	missing              // no credentials, or a key without Appid
	malformed            // they can't be a key, a token or a certificate that is mapped
	unknown              // no such key
	wrong                // the key's secret is another
	otherApp             // the key is another app's than claimed, or speaks for none
	disabled             // the app is
	expired              // the key or token has
	otherUse             // a key to publish shown to subscribe, or the reverse
	badToken             // not an issuer's of ours, not signed by it, or not for us
	ambiguous            // two of what there must be one of
	denied               // not granted
	unregistered         // no such topic
	unready              // nothing is known of anybody yet
	verdicts             // their number
)

// names are the values of the metric's label.
var names = [verdicts]string{
	passed:       "ok",
	missing:      "missing",
	malformed:    "malformed",
	unknown:      "unknown_key",
	wrong:        "wrong_secret",
	otherApp:     "other_app",
	disabled:     "disabled",
	expired:      "expired",
	otherUse:     "other_use",
	badToken:     "bad_token",
	ambiguous:    "invalid_param",
	denied:       "denied",
	unregistered: "unknown_topic",
	unready:      "unavailable",
}
