// Package errors holds the one error type of the Tencent cloud SDK that flannel tells apart.
package errors

// TencentCloudSDKError is what the SDK returns when the cloud refused a call.
type TencentCloudSDKError struct{ Message string }

func (e *TencentCloudSDKError) Error() string { return e.Message }
