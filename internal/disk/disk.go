// Package disk is how kateway uses pebble on the local disk without losing what it confirmed: a directory that is ours alone
// and of a format that we know (dir.go), writes that fail before the disk is full (space.go), and a pebble whose failed
// writes end the database instead of the process (guard.go, engine.go), and one goroutine that writes for all (rounds.go). The embedded store and the spool stand on it.
package disk
