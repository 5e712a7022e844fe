// Package testkit starts real Apache Kafka brokers and a real ZooKeeper on free loopback ports, for tests. They need Java 17
// and Maven; the jars come from Maven Central once and are kept in the user's cache folder.
//
// The environment variable KATEWAY_TEST_KAFKA says what happens without them:
//
//	require  a test that needs them fails
//	off      it is skipped, even where they could be had
//	(unset)  they are used where Java and Maven are there; else the test is skipped
//
// Each skip adds a line to the file named by KATEWAY_TEST_NOTCOVERED, so that a run can end with what it did not cover.
//
// The servers die with the test process, also when that is killed.
package testkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

const (
	policyEnv     = "KATEWAY_TEST_KAFKA"
	notCoveredEnv = "KATEWAY_TEST_NOTCOVERED"
)

// ErrMissing says that the machine lacks what a real server needs.
var ErrMissing = errors.New("not available on this machine")

// Missing skips the test because what can't be had, or fails it where the policy is "require".
func Missing(t testing.TB, what string, why error) {
	t.Helper()
	if os.Getenv(policyEnv) == "require" {
		t.Fatalf("%s=require, but no %s: %v", policyEnv, what, why)
	}
	if err := recordSkip(os.Getenv(notCoveredEnv), t.Name(), what, why); err != nil {
		t.Errorf("noting what is not covered: %v", err)
	}
	t.Skipf("no %s: %v", what, why)
}

func recordSkip(file, test, what string, why error) error {
	if file == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s: no %s: %v\n", test, what, why)
	return errors.Join(err, f.Close())
}

// wanted answers nil when real servers are to be used and the programs are there.
func wanted(programs ...string) error {
	if os.Getenv(policyEnv) == "off" {
		return fmt.Errorf("%w: %s=off", ErrMissing, policyEnv)
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%w: %v", ErrMissing, err)
		}
	}
	return nil
}
