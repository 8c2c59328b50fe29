// Package common stands in for the Tencent cloud SDK, which the module proxy does not carry.
// It is what flannel's tencent-vpc backend asks for to compile; no lab uses that backend.
package common

// StringPtr returns a pointer to a copy of v.
func StringPtr(v string) *string { return &v }

// BoolPtr returns a pointer to a copy of v.
func BoolPtr(v bool) *bool { return &v }

// StringPtrs returns pointers to copies of all vals.
func StringPtrs(vals []string) []*string {
	ptrs := make([]*string, len(vals))
	for i := range vals {
		ptrs[i] = StringPtr(vals[i])
	}
	return ptrs
}
