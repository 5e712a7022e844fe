// Package bugs tests the tests: it plants bugs in the product, one at a time, and demands that the test which is there for
// that kind of bug turns red. The table says what each bug would cost an operator, what it changes, and which test is to find
// it. The product's code knows nothing of it: the go command is given another text of one file (-overlay).
//
//	make bugs                    # all
//	make bugs BUGS=ack_before    # those whose names match
package bugs
