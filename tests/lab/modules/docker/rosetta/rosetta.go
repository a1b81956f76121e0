// Package rosetta stands in for github.com/tonistiigi/go-rosetta, which no module proxy has. The Docker client
// asks it whether Apple's Rosetta translates it, and what the lab builds runs on Linux.
package rosetta

// Enabled says whether this program is being translated by Rosetta. On Linux it never is.
func Enabled() bool { return false }
