package testkit

import (
	"crypto/sha256"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

//go:embed pom.xml
var pom []byte

// jars answers the folder with the jars of a profile of pom.xml, after bringing them if need be. Test packages run in
// parallel processes, so that a file lock lets one of them do it. The folder's name holds the digest of pom.xml: other
// versions go to another folder.
func jars(profile string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("%w: no cache folder for the jars: %v", ErrMissing, err)
	}
	dir := filepath.Join(cache, "kateway-test", fmt.Sprintf("%s-%.4x", profile, sha256.Sum256(pom)))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	return dir, fetch(profile, dir)
}

func fetch(profile, dir string) error {
	done := filepath.Join(dir, "complete")
	if _, err := os.Stat(done); err == nil {
		return nil
	}
	file := filepath.Join(dir, "pom.xml")
	if err := os.WriteFile(file, pom, 0o644); err != nil {
		return err
	}
	cmd := exec.Command("mvn", "-q", "-B", "-f", file, "-P", profile, "dependency:copy-dependencies",
		"-DincludeScope=runtime", "-DoutputDirectory="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: mvn could not bring the jars of %s: %v\n%s", ErrMissing, profile, err, tail(out))
	}
	return os.WriteFile(done, nil, 0o644)
}

// tail is the end of a log, enough to see what went wrong.
func tail(log []byte) []byte {
	return log[max(0, len(log)-4096):]
}
